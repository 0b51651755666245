"""Putting layers in the place of operations, in a graph and in the modules that it reads."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import ops  # noqa: F401  (registers our operators)

__all__ = ["Match", "Operand", "operand", "parameter", "put_layers"]

aten = torch.ops.aten

_SWAPS: dict[Any, tuple[Any, ...]] = {
    aten.t.default: ((),),
    aten.numpy_T.default: ((),),
    aten.transpose.int: ((0, 1), (1, 0), (-1, -2), (-2, -1), (0, -1), (-1, 0), (1, -2), (-2, 1)),
    aten.permute.default: (([1, 0],), ([-1, -2],), ([-1, 0],), ([1, -2],)),
}
"""Operation -> the further arguments with which it transposes a matrix."""
_PURE = {
    *_SWAPS,
    aten.to.dtype,
    aten.reshape.default,
    aten.view.default,
    aten.eye.default,
    torch.ops.sparsify.fabric_conv.default,
}
"""What layers leave behind that nobody reads."""


@dataclass(frozen=True)
class Operand:
    """A parameter that an operation reads.

    Args:
        name: its path.
        tensor: the parameter.
        transposed: whether it is read as a transposed matrix.
    """

    name: str
    tensor: Tensor
    transposed: bool = False


@dataclass(frozen=True)
class Match:
    """An operation that a layer can stand for.

    Args:
        node: the operation.
        takes: path of the parameter behind each name that the layer has for its parameters.
        form: what else makes the layer what it is: its kind, and options; equal for operations
            that can share one layer.
        make: builds the layer, on the meta device, without its parameters.
        inputs: what the layer is called with.
        owned: whether only the module that owns the parameters, all of them, can be the layer.
        reads: whether the operation is no call of the layer but gives its weight, transposed.
        outputs: where it gives a tuple that is not the operation's: how to find an output.
    """

    node: fx.Node
    takes: Mapping[str, str]
    form: tuple[Hashable, ...]
    make: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    outputs: Callable[[fx.Node, int], fx.Node] | None = None
    owned: bool = False
    reads: bool = False


def parameter(root: nn.Module, node: object) -> Operand | None:
    """The parameter that a node is, None where it is something else.

    Args:
        root: who owns the parameters.
        node: an argument of an operation.
    """
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, leaf = str(node.target).rpartition(".")
    found = root.get_submodule(owner)._parameters.get(leaf)
    return None if found is None else Operand(str(node.target), found)


def operand(root: nn.Module, node: object) -> Operand | None:
    """The matrix that a node is, itself or transposed.

    Args:
        root: who owns the parameters.
        node: an argument of an operation.
    """
    transposed = False
    while isinstance(node, fx.Node) and tuple(node.args[1:]) in _SWAPS.get(node.target, ()):
        node, transposed = node.args[0], not transposed
    found = parameter(root, node)
    if found is None or (transposed and found.tensor.dim() != 2):
        return None
    return Operand(found.name, found.tensor, transposed)


def put_layers(root: nn.Module, graph: fx.Graph, matches: list[Match]) -> dict[str, nn.Module]:
    """Put a layer at the path of the weight's owner, and a call of it in the place of each match.

    A weight that several operations read in one form is one layer, called several times. One that
    they read in different forms is a layer in the form that comes first; the other operations keep
    reading its parameters.

    Args:
        root: who owns the parameters; its modules are changed in place.
        graph: changed in place.
        matches: what to replace, in the order of the graph.

    Returns:
        The new layers by path.
    """
    places = _Places(root, matches)
    now: dict[fx.Node, fx.Node] = {}  # what stands for an operation that is gone
    for match in matches:
        path = places.paths[_form(match)]
        if path is not None:
            if path not in places.layers:
                places.put(path, match)
            _call(graph, match, path, now)
    _clean(graph, places.renamed)
    return places.layers


def _form(match: Match) -> Hashable:
    return tuple(sorted(match.takes.items())), match.form


class _Places:
    """Where layers go among the modules of a program."""

    def __init__(self, root: nn.Module, matches: list[Match]) -> None:
        """Find all places before anything is changed, while paths of parameters hold."""
        self.root = root
        self.layers: dict[str, nn.Module] = {}
        self.renamed: dict[str, str] = {}  # path of a parameter -> its path in a layer
        self.paths: dict[Hashable, str | None] = {}  # of each form; None: there is no place
        self._names: dict[int, list[str]] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}  # by path of the layer and name in it
        self._taken: set[int] = set()  # weights that a layer has
        self._moved: set[str] = set()  # layers whose parameters come from elsewhere
        for name, tensor in root.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(tensor), []).append(name)
        for find in (self._owner, self._own):  # what layers owned goes before what nobody did
            for match in matches:
                if self.paths.get(_form(match)) is None:
                    self.paths[_form(match)] = self._place(match, find)

    def _place(self, match: Match, find: Callable[..., str | None]) -> str | None:
        tensors: dict[str, Tensor] = {
            name: self.root.get_parameter(path) for name, path in match.takes.items()
        }
        path = find(match, tensors)
        if path is None or path in self._tensors:  # another form of the weight is there
            return None
        self._tensors[path] = tensors
        self._taken.add(id(next(iter(tensors.values()))))
        return path

    def put(self, path: str, match: Match) -> None:
        """Build the layer with the parameters that it takes, and set it at its path."""
        layer = self.layers[path] = match.make()
        for name, tensor in self._tensors[path].items():
            holder, _, leaf = name.rpartition(".")
            setattr(layer.get_submodule(holder), leaf, tensor)
        if path in self._moved:
            for name, source in match.takes.items():
                owner, _, leaf = source.rpartition(".")
                self.root.get_submodule(owner)._parameters.pop(leaf, None)
                self.renamed.setdefault(source, f"{path}.{name}")
        owner, _, leaf = path.rpartition(".")
        self.root.get_submodule(owner)._modules[leaf] = layer

    def _owner(self, match: Match, tensors: Mapping[str, Tensor]) -> str | None:
        """The module that holds exactly the parameters of a match, under the layer's names.

        Of several, for a weight with several names, the one that the model ran.
        """
        wanted = {name: id(tensor) for name, tensor in tensors.items()}
        first = next(iter(tensors))
        owners = [
            name.removesuffix(first)[:-1]
            for name in self._names[wanted[first]]
            if name.endswith(f".{first}")
        ]
        ran = running(match.node)
        for owner in sorted(owners, key=lambda path: path != ran):
            module = self.root.get_submodule(owner)
            held = {name: id(p) for name, p in module.named_parameters(remove_duplicate=False)}
            if type(module) is nn.Module and held == wanted and not dict(module.named_buffers()):
                return owner
        return None

    def _own(self, match: Match, tensors: Mapping[str, Tensor]) -> str | None:
        """A free path beside the weight, for a parameter that no layer owned.

        "in_proj_weight" gives "in_proj", "w" becomes the layer "w", and a model that is itself a
        layer gets the layer "linear" or the like.
        """
        if match.owned or any(len(self._names[id(tensor)]) > 1 for tensor in tensors.values()):
            return None
        weight = next(iter(tensors.values()))
        owner, dot, leaf = next(iter(match.takes.values())).rpartition(".")
        holder = self.root.get_submodule(owner)
        stem = leaf.removesuffix("weight").rstrip("_") or str(match.form[0])
        name = leaf if hasattr(holder, stem) or keyword.iskeyword(stem) else stem
        path = f"{owner}{dot}{name}"
        if id(weight) in self._taken:
            return None
        self._moved.add(path)
        return path


def running(node: fx.Node) -> str:
    """The path of the module that ran an operation when the model was exported."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return paths[-1].partition("@")[0] if paths else ""  # "fc@1": the second call of fc


def _call(graph: fx.Graph, match: Match, path: str, now: dict[fx.Node, fx.Node]) -> None:
    """Put the call of a layer in the place of an operation, and note what stands for what."""
    node = match.node
    with graph.inserting_before(node):
        if match.reads:
            weight = graph.create_node("get_attr", f"{path}.weight")
            call = graph.call_function(aten.t.default, (weight,))
        else:
            inputs = fx.node.map_arg(match.inputs, lambda value: now.get(value, value))
            call = graph.call_module(path, inputs)
    now[node] = call
    call.meta = {key: node.meta[key] for key in ("nn_module_stack", "val") if key in node.meta}
    for user in list(node.users) if match.outputs is not None else ():
        with graph.inserting_before(user):
            now[user] = match.outputs(call, int(user.args[1]))  # type: ignore[arg-type, misc]
        user.replace_all_uses_with(now[user])
        graph.erase_node(user)
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def _clean(graph: fx.Graph, renamed: dict[str, str]) -> None:
    """Drop what nobody reads any more, and read the rest where it is now."""
    for node in reversed(list(graph.nodes)):
        if not node.users and (node.op == "get_attr" or node.target in _PURE):
            graph.erase_node(node)
        elif node.target is aten._assert_tensor_metadata.default and _is_read(node.args[0]):
            graph.erase_node(node)  # a parameter has the type that it has
        elif node.op == "get_attr":
            node.target = renamed.get(str(node.target), node.target)


def _is_read(node: object) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"
