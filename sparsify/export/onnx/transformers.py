"""What transformers brings along for the export of its own models, borrowed for one attempt.

Some of its models call operators that torch's exporter cannot write, such as the products of
stacked experts. Since version 5 transformers carries patches of torch, repairs of graphs and
translations for them. They are made for its own exporter, which knows nothing of our operators, so
the parts are used one by one: all of them private, so whatever is missing counts as no help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Borrowed", "borrowed"]

_BACKENDS = ("dynamo", "onnx")  # patches for torch's capture, and for what comes after it
_ABSENT = object()


@dataclass(frozen=True)
class Borrowed:
    """What to add to an attempt of torch's exporter; by default nothing.

    Args:
        translations: how to write operators that torch cannot.
        repair: changes the finished program so that runtimes take it.
    """

    translations: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)
    repair: Callable[[Any], None] = lambda program: None


@contextmanager
def borrowed(model: nn.Module) -> Iterator[Borrowed | None]:
    """Torch patched as transformers wants it for the export of its models, then as it was.

    Args:
        model: the model to export.

    Yields:
        What else to use inside. None, and nothing is patched, where no model of transformers is in
        it or the installed version brings no such help.

    Example:
        >>> with borrowed(nn.Linear(2, 2)) as help:
        ...     print(help)
        None
    """
    with ExitStack() as stack:
        help = None
        if _is_of_transformers(model):
            try:
                from transformers.exporters import exporter_onnx, utils

                for backend in _BACKENDS:
                    stack.enter_context(_restored(utils, backend))
                    stack.enter_context(utils.apply_patches(backend))
                help = Borrowed(
                    exporter_onnx._ONNX_TRANSLATION_TABLE, exporter_onnx.apply_onnx_ir_fixes
                )
            except (ImportError, AttributeError):
                stack.close()
        yield help


def _is_of_transformers(model: nn.Module) -> bool:
    """Whether a model of transformers is in it; asked without importing anything."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and any(
        isinstance(part, library.PreTrainedModel) for part in model.modules()
    )


@contextmanager
def _restored(utils: Any, backend: str) -> Iterator[None]:
    """Bring every patched attribute back as it was: inherited, where it was inherited.

    `apply_patches` alone leaves an inherited attribute, such as `torch.Tensor.view`, behind as one
    of the class itself.
    """
    before = {}
    for place, name, _ in utils._PATCHES.get(backend, ()):
        owner = utils.import_dotted_path(place, missing_ok=True)
        if owner is not None:
            before[id(owner), name] = owner, vars(owner).get(name, _ABSENT)
    try:
        yield
    finally:
        for (_, name), (owner, value) in before.items():
            if value is not _ABSENT:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)
