"""Recording a model: one run under a dispatch mode gives an FX graph of its ATen calls.

No tracing of Python: control flow, keyword arguments, output classes and any module work. The run
uses fake tensors (no memory, no arithmetic) first, and real ones where the code looks at data.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import ModelError
from .preserve import preserved

__all__ = ["does_not_run", "evaluating", "record"]

logger = logging.getLogger(__name__)
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def record(model: nn.Module, inputs: Inputs) -> fx.Graph:
    """Run a model once in eval mode without gradients and write down its ATen calls.

    Args:
        model: any module; left as it was, its mode, buffers and gradients included.
        inputs: positional and keyword inputs.

    Returns:
        A graph with `get_attr` nodes for parameters and buffers by their path; each node has
        `meta["shape"]` and `meta["scope"]`, the paths of the modules that were running. Where the
        run had to look at data, the output node has `meta["data_dependent"]`.

    Raises:
        ModelError: the model does not run on these inputs.
    """
    with evaluating(model), torch.no_grad():
        try:
            return _fake_run(model, inputs)
        except Exception as error:
            logger.debug("recording with fake tensors failed, running for real: %s", error)
            fake_error = error
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise does_not_run(fake_error) from fake_error
        try:
            graph = _real_run(model, inputs)
        except Exception as error:
            raise does_not_run(error) from error
    graph.output_node().meta["data_dependent"] = True
    return graph


def does_not_run(error: Exception) -> ModelError:
    """What to raise where a model fails on its example inputs."""
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return ModelError(
        f"The model does not run on the example inputs ({reason}). Check their number, shapes, "
        "types and device."
    )


def _fake_run(model: nn.Module, inputs: Inputs) -> fx.Graph:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        # A tensor on the meta device has no data to run on: its stand-in claims the CPU.
        def fake(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_meta:
                return FakeTensor(mode, tensor.detach(), torch.device("cpu"))
            return mode.from_tensor(tensor)

        stand_ins = _for_each_slot(model, fake)
        args, kwargs = tree_map(lambda leaf: fake(leaf) if _is_tensor(leaf) else leaf, inputs)
        recorder = _Recorder(model, stand_ins)

        def call() -> Any:
            # Every slot has its stand-in, ties included: torch's own handling of ties would swap a
            # module at two paths twice, and leave the stand-ins in it.
            return torch.func.functional_call(model, stand_ins, args, kwargs, tie_weights=False)

        with preserved(model), _quiet():
            return recorder.run(call, (args, kwargs))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback of what fails on fake tensors; we answer that failure ourselves."""
    torch_logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = torch_logger.disabled
    torch_logger.disabled = True
    try:
        yield
    finally:
        torch_logger.disabled = before


def _for_each_slot(
    model: nn.Module, make: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One tensor by the name of each parameter and buffer; tied ones get the same."""
    made: dict[int, torch.Tensor] = {}
    slots: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            if id(tensor) not in made:
                made[id(tensor)] = make(tensor)
            slots[f"{path}.{leaf}" if path else leaf] = made[id(tensor)]
    return slots


def _real_run(model: nn.Module, inputs: Inputs) -> fx.Graph:
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    args, kwargs = tree_map(lambda leaf: leaf.clone() if _is_tensor(leaf) else leaf, inputs)
    recorder = _Recorder(model, {})
    try:
        with preserved(model):
            return recorder.run(lambda: model(*args, **kwargs), (args, kwargs))
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(saved[name])


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, restored module by module; and no fused path that hides the products."""
    modes = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, training in modes:
            module.training = training


class _Recorder(TorchDispatchMode):
    """Writes each ATen call that passes by into a graph."""

    def __init__(self, model: nn.Module, stand_ins: dict[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[torch.Tensor] = []
        self._names: dict[int, tuple[str, bool]] = {}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._scope: list[str] = []
        self._thread = threading.get_ident()  # hooks on all modules see other threads' models too
        for path, module in model.named_modules():
            for name, value in vars(module).items():  # tensors that are no buffers, but held
                if _is_tensor(value):
                    self._names[id(value)] = (f"{path}.{name}" if path else name, False)
        for name, buffer in model.named_buffers():
            self._names[id(buffer)] = self._names[id(stand_ins.get(name, buffer))] = (name, False)
        for name, weight in model.named_parameters():
            self._names[id(weight)] = self._names[id(stand_ins.get(name, weight))] = (name, True)

    def run(self, call: Callable[[], Any], inputs: Inputs) -> fx.Graph:
        """Record one call."""
        for position, leaf in enumerate(t for t in tree_leaves(inputs) if _is_tensor(t)):
            self._remember(leaf, self.graph.placeholder(f"input_{position}"))
        enter = module_hooks.register_module_forward_pre_hook(self._enter)
        leave = module_hooks.register_module_forward_hook(self._leave, always_call=True)
        try:
            with self:
                outputs = call()
        finally:
            enter.remove()
            leave.remove()
        self.graph.output(tuple(self._node(leaf) for leaf in _tensors(outputs)))
        return self.graph

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() == self._thread:
            self._scope.append(self._paths.get(id(module), "?"))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread:
            self._scope.pop()

    def _remember(self, tensor: torch.Tensor, node: fx.Node) -> None:
        node.meta["shape"] = tuple(tensor.shape)
        node.meta["scope"] = tuple(self._scope)
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def _node(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) not in self._nodes:
            name, is_parameter = self._names.get(
                id(tensor), (f"constant_{len(self._alive)}", False)
            )
            node = self.graph.create_node("get_attr", name)
            node.meta["parameter"] = is_parameter
            self._remember(tensor, node)
        return self._nodes[id(tensor)]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Let the call happen, then write it down."""
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if _is_tensor(leaf)]
        if outputs:
            node = self.graph.call_function(func, *self._as_nodes((args, kwargs or {})))
            node.meta["scope"] = tuple(self._scope)
            for position, tensor in enumerate(outputs):
                single = len(outputs) == 1 and _is_tensor(result)
                item = (
                    node if single else self.graph.call_function(operator.getitem, (node, position))
                )
                self._remember(tensor, item)
        return result

    def _as_nodes(self, arguments: Any) -> Any:
        def convert(leaf: Any) -> Any:
            if _is_tensor(leaf):
                return self._node(leaf)
            plain = isinstance(leaf, (bool, int, float, complex, str, type(None)))
            return leaf if plain else str(leaf)

        return tree_map(convert, arguments)


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """The tensors of any output, plain objects included."""
    for leaf in tree_leaves(outputs):
        if _is_tensor(leaf):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (t for t in tree_leaves(vars(leaf)) if _is_tensor(t))
