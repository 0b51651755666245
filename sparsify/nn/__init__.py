"""Layers made of fabrics, and the dense layers they stand for."""

from __future__ import annotations

from .computed import (
    copies_of_computed,
    drop_weight_norm,
    effective_weight,
    held_to,
    norm_parameters,
)
from .conv import FabricConv1d, FabricConv2d, FabricConv3d
from .conv_transpose import FabricConvTranspose1d, FabricConvTranspose2d, FabricConvTranspose3d
from .layer import FabricLayer
from .linear import FabricLinear, FabricTransposedLinear
from .owners import Dense, call_layers, dense, replacement
from .products import FabricLeftLinear, LeftLinear, TransposedLinear
from .unfold import COMPOSITES, HOOKS, fold_weights, is_composite, unfold, unfolded_twin
from .weight import DenseWeight, FabricWeight
from .whole import check_whole

__all__ = [
    "COMPOSITES",
    "HOOKS",
    "Dense",
    "DenseWeight",
    "FabricConv1d",
    "FabricConv2d",
    "FabricConv3d",
    "FabricConvTranspose1d",
    "FabricConvTranspose2d",
    "FabricConvTranspose3d",
    "FabricLayer",
    "FabricLeftLinear",
    "FabricLinear",
    "FabricTransposedLinear",
    "FabricWeight",
    "LeftLinear",
    "TransposedLinear",
    "call_layers",
    "check_whole",
    "copies_of_computed",
    "dense",
    "drop_weight_norm",
    "effective_weight",
    "fold_weights",
    "held_to",
    "is_composite",
    "norm_parameters",
    "replacement",
    "unfold",
    "unfolded_twin",
]
