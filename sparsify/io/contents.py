"""What is inside a file: one of ours, plain safetensors, an ONNX model or a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FileError, ModelError
from ..files import read_text
from ..plan import Plan
from ..report import Row

__all__ = ["Contents", "contents"]


@dataclass(frozen=True)
class Contents:
    """A description of a file.

    Args:
        facts: what holds for the whole file, by name.
        rows: its parts, as a table.
    """

    facts: Row
    rows: Sequence[Row]


def contents(path: Path) -> Contents:
    """Describe a file, after checking that it is whole.

    Args:
        path: a file of any kind that this package writes, plain safetensors, an exported program,
            or a model folder.

    Raises:
        FileError: there is no such file.
        ModelError: it is damaged, or of another kind.

    Example:
        >>> contents(Path("m.safetensors")).facts["sha256"]  # doctest: +SKIP
        'ok'
    """
    if path.is_dir():
        from .saved import saved_in
        from .shards import SINGLE

        path = saved_in(path) or path / SINGLE
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    kinds = {".onnx": _onnx, ".pt2": _program, ".json": _plan}
    describe = kinds.get(path.suffix.lower(), _safetensors)
    return describe(path)


def _safetensors(path: Path) -> Contents:
    from .saved import is_saved, open_saved
    from .tensors import read_header

    header = read_header(path)
    if not is_saved(header):
        plain: list[Row] = [
            {"tensor": entry.name, "type": entry.dtype, "shape": _shape(entry.shape)}
            for entry in header.entries
        ]
        about: Row = {"kind": "plain safetensors", "tensors": len(plain), **header.metadata}
        return Contents(about, plain)
    saved = open_saved(path)
    saved.verify()
    rows: list[Row] = [
        {
            "path": layer or "(the model)",
            "fabric": str(fabric),
            "parameters": fabric.parameters,
            "density": fabric.density,
        }
        for layer, fabric in saved.recipe.items()
    ]
    facts: Row = {
        "kind": "sparse model",
        "written by": f"sparsify-fabric {header.metadata.get('version', '?')}",
        "schema": header.metadata["schema"],
        "sha256": "ok",
        "fabrics": len(rows),
        "tensors": len(header.entries),
        "tied to them": len(saved.aliases),
        "types": ", ".join(sorted({entry.dtype for entry in header.entries})),
        "bytes": path.stat().st_size,
    }
    return Contents(facts, rows)


def _onnx(path: Path) -> Contents:
    import onnx

    from ..export.onnx.ops import DOMAIN

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions differ between its versions
        raise ModelError(f"{path} is no ONNX file, or it is damaged ({error}).") from error
    if not model.graph.node:
        raise ModelError(f"{path} is no ONNX file, or it is damaged (it has no graph).")
    bodies = {function.name for function in model.functions if function.domain == DOMAIN}
    ours = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    sizes = {node.op_type: _sizes(node) for node in model.graph.node if node.domain == DOMAIN}
    rows: list[Row] = [
        {
            "op": f"{DOMAIN}::{name}",
            "shape": sizes[name],
            "nodes": count,
            "body": "in the file" if name in bodies else "missing",
        }
        for name, count in sorted(ours.items())
    ]
    opsets = (f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    facts: Row = {
        "kind": "ONNX model",
        "written by": f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        **{entry.key: entry.value for entry in model.metadata_props},
        "opsets": ", ".join(sorted(opsets)),
        "nodes": len(model.graph.node),
        "fabrics": sum(ours.values()),
        "inputs": ", ".join(value.name for value in model.graph.input),
        "outputs": ", ".join(value.name for value in model.graph.output),
    }
    return Contents(facts, rows)


def _program(path: Path) -> Contents:
    from ..frontend.pt2 import load_pt2
    from .recipe import fabrics

    module = load_pt2(path)
    rows: list[Row] = [
        {
            "path": layer or "(the model)",
            "fabric": str(fabric),
            "parameters": fabric.parameters,
            "density": fabric.density,
        }
        for layer, fabric in fabrics(module).items()
    ]
    inputs = (f"{name} {_shape(sizes)}" for name, sizes in module.interface.sizes.items())
    facts: Row = {
        "kind": "exported program",
        "inputs": ", ".join(inputs),
        "mode": "training" if module.training else "evaluation",
        "operations": sum(node.op == "call_function" for node in module.graph.nodes),
        "fabrics": len(rows),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "bytes": path.stat().st_size,
    }
    return Contents(facts, rows)


def _sizes(node: Any) -> str:
    values = {entry.name: entry.i for entry in node.attribute}
    return f"{values.get('in_features', '?')} -> {values.get('out_features', '?')}"


def _plan(path: Path) -> Contents:
    try:
        plan = Plan.from_json(read_text(path))
    except ConfigError as error:
        raise ModelError(f"{path} is no plan, or it is damaged: {error}") from error
    return Contents({"kind": "plan", "summary": plan.summary()}, plan.rows())


def _shape(sizes: Sequence[object]) -> str:
    return "x".join(map(str, sizes)) or "()"
