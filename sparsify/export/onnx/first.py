"""Which fabric of a rewritten ONNX file is the first to differ from its dense matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...frontend.onnx.edges import OnnxEdges
from ...nn import FabricLayer
from ...onnx import session
from ...verify import difference
from .run import run_session, silent

if TYPE_CHECKING:
    from ...frontend.onnx.model import OnnxModel

__all__ = ["first_layer"]


def first_layer(model: OnnxModel, path: Path, other: Path, inputs: Mapping[str, Tensor]) -> str:
    """Name the first fabric whose output differs.

    Args:
        model: what was written.
        path: the file.
        other: the original graph with dense matrices; values have the same names in it.
        inputs: on which the two differ.

    Returns:
        A sentence.
    """
    try:
        return _search(model, path, other, inputs)
    except Exception as error:  # this search must not hide the failure that it explains
        return f"The first layer that differs could not be found ({type(error).__name__}: {error})."


def _search(model: OnnxModel, path: Path, other: Path, inputs: Mapping[str, Tensor]) -> str:
    """Run both files with the outputs of the fabrics, or of what follows them, as outputs."""
    import onnx

    protos = [onnx.load(file, load_external_data=False) for file in (path, other)]
    made = [{name for node in proto.graph.node for name in node.output} for proto in protos]
    edges = OnnxEdges(protos[1].graph)
    layers: dict[str, str] = {}
    for output, layer in model.reading.paths.items():
        if isinstance(model.get_submodule(layer), FabricLayer):
            behind = [name for node in edges.readers(output) for name in node.output]
            both = [name for name in (output, *behind) if name in made[0] & made[1]]
            layers.update(dict.fromkeys(both[:1], layer))
    found, truth = (
        _values(proto, file.with_name("probe.onnx"), list(layers), inputs)
        for proto, file in zip(protos, (path, other), strict=True)
    )
    for name, layer in layers.items():
        if not difference(0, name, found[name], torch.from_numpy(truth[name])).passed:
            return f"The first layer that differs is {layer!r}."
    return "Each fabric agrees with its dense matrix; what differs is a node between them."


def _values(
    proto: Any, probe: Path, names: Sequence[str], inputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    known = {value.name for value in proto.graph.output}
    for name in names:
        if name not in known:
            proto.graph.output.add(name=name)
    probe.write_bytes(proto.SerializeToString())
    try:
        return run_session(session(probe, silent(), native=False), inputs, list(names))
    finally:
        probe.unlink()
