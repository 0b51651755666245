"""Running an ONNX model that is open as a module, with the fabrics that stand in it now."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...nn import HOOKS
from ...onnx import session
from ...verify import to_numpy
from .bytes import write_values
from .rewrite import Rewritten, rewrite
from .write import EXTERNAL_DATA_BYTES

if TYPE_CHECKING:
    import onnxruntime

    from ...frontend.onnx.file import OnnxFile
    from ...frontend.onnx.model import OnnxModel

__all__ = ["run", "run_session", "seen_shapes", "silent"]

logger = logging.getLogger(__name__)


def run(model: OnnxModel, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Run a model once.

    Layers with hooks are called as well, each on what its node sees, in the order of the file: so
    statistics of their inputs can be gathered as for any other module.

    Args:
        model: the model.
        inputs: by name.

    Returns:
        The outputs by name, as tensors; what is no tensor as onnxruntime gives it.

    Raises:
        ModelError: onnxruntime cannot run the file.
    """
    products = model.reading.products
    watched = {
        output: layer
        for output, path in model.reading.paths.items()
        if _is_watched(layer := model.get_submodule(path))
    }
    extra = list(dict.fromkeys(products[output].x for output in watched))
    names = [value.name for value in model.source.proto.graph.output]
    values = run_session(_runtime(model, extra), inputs, [*names, *extra])
    tensors = {
        name: torch.from_numpy(value) if hasattr(value, "dtype") else value
        for name, value in values.items()
    }
    for output, layer in watched.items():
        layer(tensors[products[output].x])
    return {name: tensors[name] for name in names}


def seen_shapes(
    file: OnnxFile, inputs: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The sizes of inner values in one run of a file; none where it is too large, or does not run.

    Args:
        file: the file.
        inputs: by name.
        names: of the values; those that the file computes beforehand are left out.
    """
    if sum(data.nbytes for data in file.values.values()) > EXTERNAL_DATA_BYTES:
        return {}
    try:
        runtime = _opened(Rewritten(copy.deepcopy(file.proto), file.values), names, silent())
        values = run_session(runtime, inputs, list(names))
    except ModelError as error:
        logger.debug("no sizes from a run: %s", error)
        return {}
    return {name: tuple(v.shape) for name, v in values.items() if hasattr(v, "shape")}


def run_session(
    runtime: onnxruntime.InferenceSession,
    inputs: Mapping[str, Tensor],
    names: list[str] | None = None,
) -> dict[str, Any]:
    """The outputs of a session by name.

    Raises:
        ModelError: onnxruntime fails.
    """
    names = names or [output.name for output in runtime.get_outputs()]
    feed = {name: to_numpy(tensor) for name, tensor in inputs.items()}
    try:
        return dict(zip(names, runtime.run(names, feed), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        reason = " ".join(str(error).split())[-300:].rstrip(".")
        raise ModelError(f"onnxruntime cannot run the model on {shapes}: {reason}.") from error


def _is_watched(layer: nn.Module) -> bool:
    return any(getattr(layer, name) for name in HOOKS if "forward" in name)


def _runtime(model: OnnxModel, extra: list[str]) -> onnxruntime.InferenceSession:
    """A session with further outputs; the last one is kept while no weight changes."""
    state = (
        tuple(extra),
        tuple((p.data_ptr(), p._version) for p in model.parameters()),
    )
    kept, runtime = model.__dict__["_runtime"]
    if kept != state:
        runtime = _opened(rewrite(model), extra)
        model.__dict__["_runtime"] = state, runtime
    return runtime


def _opened(
    found: Rewritten, extra: Sequence[str], options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A session with further outputs, from files that are gone when it is there."""
    known = {value.name for value in found.proto.graph.output}
    for name in extra:
        if name not in known:
            found.proto.graph.output.add(name=name)
    with tempfile.TemporaryDirectory(prefix="sparsify-") as folder:
        path = Path(folder) / "model.onnx"
        write_values(found.proto, found.values, path)
        return session(path, options)


def silent() -> onnxruntime.SessionOptions:
    """Options of a session whose failures are expected, and told by us."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options
