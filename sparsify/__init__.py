"""Turn the dense layers of a PyTorch model into fabrics: products of sparse factors.

`sparsify(model)` gives the model back, in its own class, with its Linear and Conv layers replaced;
`plan(model)` is the dry run; `save`, `load` and `export_onnx` carry the result on.

Example:
    >>> import torch, sparsify as sp
    >>> sparse = sp.sparsify(torch.nn.Sequential(torch.nn.Linear(256, 256)), budget=0.25)
    >>> sparse(torch.zeros(7, 256)).shape
    torch.Size([7, 256])
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import distributed as distributed
    from . import nn as nn
    from . import onnx as onnx
    from . import plot as plot
    from . import recipes as recipes
    from .api import fabric as fabric
    from .api import plan as plan
    from .api import sparsify as sparsify
    from .config import Budget as Budget
    from .config import Rule as Rule
    from .environment import capabilities as capabilities
    from .errors import BudgetError as BudgetError
    from .errors import ConfigError as ConfigError
    from .errors import FileError as FileError
    from .errors import IncompleteError as IncompleteError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import ModelError as ModelError
    from .errors import NothingToDoError as NothingToDoError
    from .errors import SparsifyError as SparsifyError
    from .errors import VerificationError as VerificationError
    from .export.onnx.export import export_onnx as export_onnx
    from .fabric import Fabric as Fabric
    from .init.project import project as project
    from .optim import param_groups as param_groups
    from .optim_convert import convert_optimizer as convert_optimizer
    from .plan import Plan as Plan
    from .select.score import score as score
    from .store import load as load
    from .store import save as save
    from .sweep import sweep as sweep
    from .sweep.journal import read_trials as read_trials
    from .sweep.trial import Trial as Trial
    from .topology import topologies as topologies

    __version__: str

_HOMES = {  # public name -> where it is defined, imported when it is first used
    "sparsify": ".api",
    "plan": ".api",
    "Plan": ".plan",
    "Budget": ".config",
    "Rule": ".config",
    "save": ".store",
    "load": ".store",
    "export_onnx": ".export.onnx.export",
    "fabric": ".api",
    "Fabric": ".fabric",
    "score": ".select.score",
    "topologies": ".topology",
    "param_groups": ".optim",
    "convert_optimizer": ".optim_convert",
    "project": ".init.project",
    "sweep": ".sweep",
    "read_trials": ".sweep",
    "Trial": ".sweep",
    "capabilities": ".environment",
    "SparsifyError": ".errors",
    "BudgetError": ".errors",
    "ConfigError": ".errors",
    "FileError": ".errors",
    "IncompleteError": ".errors",
    "MissingExtraError": ".errors",
    "ModelError": ".errors",
    "NothingToDoError": ".errors",
    "VerificationError": ".errors",
}
_MODULES = ("distributed", "nn", "onnx", "plot", "recipes")

__all__ = [
    "Budget",
    "BudgetError",
    "ConfigError",
    "Fabric",
    "FileError",
    "IncompleteError",
    "MissingExtraError",
    "ModelError",
    "NothingToDoError",
    "Plan",
    "Rule",
    "SparsifyError",
    "Trial",
    "VerificationError",
    "__version__",
    "capabilities",
    "convert_optimizer",
    "distributed",
    "export_onnx",
    "fabric",
    "load",
    "nn",
    "onnx",
    "param_groups",
    "plan",
    "plot",
    "project",
    "read_trials",
    "recipes",
    "save",
    "score",
    "sparsify",
    "sweep",
    "topologies",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


class _Package(ModuleType):
    """A package whose functions keep their names beside files of the same name.

    The import system binds a submodule to its package: without this, the first import of
    `sparsify.plan` would put that module in the place of the function `plan`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: functions of scripts and notebooks that use it go to other processes."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .version import package_version

        return package_version()
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
