"""Calibration: what the layers of a dense model read, from some batches of its inputs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ..errors import ConfigError, ModelError
from ..mapping import release
from ..nn import dense
from ..nn.matrices import array_of
from ..nn.products import LeftLinear
from ..passes import Program
from ..select.trained import Trained
from .capture import as_inputs
from .moments import Moment, Shelf
from .patches import vectors
from .preserve import preserved
from .record import evaluating

__all__ = [
    "Calibration",
    "Inputs",
    "as_batches",
    "calibrate",
    "leaving_alone",
    "readers",
    "run",
    "trained_of",
]

logger = logging.getLogger(__name__)

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

_SAME = {"aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"}
"""Views that leave rows rows, as long as the last axis stays."""


@dataclass
class Calibration:
    """Batches, and what was found out from them, so that a conversion need not repeat its plan.

    Args:
        batches: as `as_batches` gives them; none for weights alone.
        trained: weights and covariances, once they are known.
    """

    batches: list[Inputs] = field(default_factory=list)
    trained: Trained | None = None

    @staticmethod
    def of(given: Any) -> Calibration:
        """What a user gave for calibration.

        Raises:
            ConfigError: no iterable of batches, or an empty one.
        """
        if isinstance(given, Calibration):
            return given
        return Calibration([] if given is None else as_batches(given))

    def look(self, program: Program, names: Sequence[str]) -> Trained:
        """The weights of a program, and the covariances of some layers' inputs.

        Args:
            program: captured, its values there.
            names: the layers whose inputs are to be looked at.

        Raises:
            ConfigError: the model does not run on a batch.
            ModelError: a weight has no values; or a layer's input is not finite.
        """
        if self.trained is None:
            self.trained = trained_of(program, names, self.batches)
        return self.trained


def as_batches(calibration: Any) -> list[Inputs]:
    """Check what a user gave for calibration.

    Args:
        calibration: an iterable of batches, each in a form of `example_inputs`.

    Returns:
        The batches as positional and keyword inputs.

    Raises:
        ConfigError: no iterable of batches, or an empty one.

    Example:
        >>> as_batches([torch.zeros(2, 3)])[0][1]
        {}
    """
    if isinstance(calibration, (Tensor, Mapping, str)) or not isinstance(calibration, Iterable):
        raise ConfigError(
            "calibration is an iterable of batches, each a tuple, a dict or a tensor as in "
            f"example_inputs; got {type(calibration).__name__}. Put a single batch into a list."
        )
    batches = [_batch(batch, place) for place, batch in enumerate(calibration)]
    if not batches:
        raise ConfigError(
            "The calibration has no batch. A generator can be gone through once only: pass a list "
            "where it was used before."
        )
    return batches


def _batch(batch: Any, place: int) -> Inputs:
    try:
        return as_inputs(batch)
    except ConfigError:
        raise ConfigError(
            f"Batch {place} of the calibration is a {type(batch).__name__}; each must be a tuple "
            "of positional inputs, a dict of keyword inputs or a tensor."
        ) from None


def calibrate(
    program: Program, names: Sequence[str], batches: Sequence[Inputs], shelf: Shelf | None = None
) -> dict[str, Moment]:
    """Run a dense model over batches, and sum the outer products of what some layers read.

    In eval mode, without gradients; the model stays as it was. Layers that read the same tensor,
    such as query, key and value, share a sum. Of convolutions, the rows are patches.

    Args:
        program: captured.
        names: the layers that are wanted.
        batches: of inputs.
        shelf: where sums are kept.

    Returns:
        The sum for each layer that was called; transposed convolutions have none.

    Raises:
        ConfigError: the model does not run on a batch.
        ModelError: a layer's input is not finite.
    """
    model, leaders = program.module, readers(program, names)
    place = shelf or Shelf()
    moments: dict[str, Moment] = {}
    now = 0

    def see(name: str, module: nn.Module, x: Tensor) -> None:
        rows = vectors(module, x)
        if rows is None:
            return
        if not torch.isfinite(rows).all():
            raise ModelError(
                f"The input of {name!r} has NaN or infinity in batch {now} of the calibration."
            )
        moments.setdefault(name, Moment(place)).add(rows)

    with leaving_alone(model), contextlib.ExitStack() as hooks:
        for name in dict.fromkeys(leaders.values()):
            watch(hooks, model.get_submodule(name), partial(see, name))
        for now, batch in enumerate(batches):
            run(model, batch, now)
    for name, moment in moments.items():
        if not torch.isfinite(moment.mean()).all():
            raise ModelError(
                f"The inputs of {name!r} are so large that their squares overflow; scale the "
                "calibration."
            )
    if not moments and names and all(_is_empty(batch) for batch in batches):
        raise ConfigError("The batches of the calibration have no rows.")
    silent = [name for name in names if leaders[name] not in moments]
    if silent:
        logger.info(
            "%d layers have no inputs from calibration (not called, or transposed convolutions), "
            "such as %s: their weights are projected, not their outputs",
            len(silent),
            silent[0],
        )
    return {name: moments[leaders[name]] for name in names if leaders[name] in moments}


def _is_empty(batch: Inputs) -> bool:
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    return any(not tensor.numel() for tensor in tensors)


def trained_of(program: Program, names: Sequence[str], batches: Sequence[Inputs] = ()) -> Trained:
    """The weights of a program for projection, with the covariances of some layers' inputs.

    Weights are read one by one when they are asked for.

    Args:
        program: captured, its values there.
        names: the layers whose inputs are to be looked at.
        batches: of inputs; none for weights alone.

    Raises:
        ConfigError: the model does not run on a batch.
        ModelError: a weight has no values, or a weight or a layer's input is not finite.
    """
    modules = dict(program.original.named_modules())
    for name in names:
        if next(modules[name].parameters()).is_meta:
            array_of(modules[name], name)  # says what is wrong
    moments: dict[str, Moment] = {}
    centred: set[str] = set()

    def covariance(name: str) -> Any:
        if name not in moments:
            return None
        found = moments[name].shrunk(centred=name in centred).numpy()
        return found[0] if len(found) == 1 else found

    def mean(name: str) -> Any:
        return moments[name].means()[1].numpy() if name in centred else None

    def weight(name: str) -> Any:
        release()  # what was read for the one before
        return array_of(modules[name], name)

    trained = Trained(weight, covariance, mean)
    if batches:
        for name in names:
            trained.weight(name)  # its NaN would else be found in the inputs of the next layer
        moments.update(calibrate(program, names, batches))
        centred.update(_with_own_bias(modules, moments))
    return trained


def _with_own_bias(modules: Mapping[str, nn.Module], names: Iterable[str]) -> set[str]:
    """The layers whose bias can take over errors of the mean: no other layer reads it."""
    found: dict[int, list[str]] = {}
    for name in names:
        bias = getattr(modules[name], "bias", None)
        if isinstance(bias, Tensor) and not isinstance(modules[name], LeftLinear):
            found.setdefault(id(bias), []).append(name)
    return {several[0] for several in found.values() if len(several) == 1}


def watch(
    hooks: contextlib.ExitStack, module: nn.Module, see: Callable[[nn.Module, Tensor], None]
) -> None:
    """Call a function with what a module is called with, until the stack of hooks closes."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(x, Tensor) and x.numel():
            see(module, x.detach())

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    hooks.callback(handle.remove)


def run(model: nn.Module, batch: Inputs, place: int) -> None:
    """Call a model on a batch of the calibration.

    Raises:
        ConfigError: it does not run on it.
    """
    args, kwargs = batch
    try:
        model(*args, **kwargs)
    except (ModelError, ConfigError):
        raise
    except Exception as error:  # whatever the user's model raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ConfigError(
            f"The model does not run on batch {place} of the calibration "
            f"({type(error).__name__}: {reason[:300]}). Each batch must be what the model is "
            "called with, in shape, type and device."
        ) from error


@contextlib.contextmanager
def leaving_alone(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, buffers and all else as before afterwards, and no fused path."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with preserved(model), evaluating(model), torch.no_grad():
        try:
            yield
        finally:
            for buffer, before in saved:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def readers(program: Program, names: Sequence[str]) -> dict[str, str]:
    """Each layer -> the first of those that read the very same tensors in the recorded run."""
    reads: dict[str, list[Any]] = {name: [] for name in names}
    is_fixed = program.recorded and not program.graph.output_node().meta.get("data_dependent")
    for node in program.graph.nodes if is_fixed else ():
        name, use = node.meta.get("site"), node.meta.get("weight")
        if name in reads and (use is not None or node.op == "call_module"):
            reads[name].append(_source(node.args[use.activation if use is not None else 0]))
    first: dict[Any, str] = {}
    leaders = {}
    for name in names:
        layer = dense(program.original.get_submodule(name))
        is_plain = layer is not None and not layer.kernel
        key = (*reads[name], layer.kind) if layer and reads[name] and is_plain else name
        leaders[name] = first.setdefault(key, name)
    return leaders


def _source(node: Any) -> Any:
    """Where rows come from, views that keep the last axis left out."""
    while isinstance(node, fx.Node) and str(node.target) in _SAME:
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.meta["shape"][-1:] != node.meta["shape"][-1:]:
            return node
        node = before
    return node
