"""Layers made of fabrics, and the dense layers they stand for."""

from __future__ import annotations

from .conv import FabricConv1d, FabricConv2d, FabricConv3d
from .layer import FabricLayer
from .linear import FabricLinear, FabricTransposedLinear
from .owners import HOOKS, Dense, call_layers, dense, replacement

__all__ = [
    "HOOKS",
    "Dense",
    "FabricConv1d",
    "FabricConv2d",
    "FabricConv3d",
    "FabricLayer",
    "FabricLinear",
    "FabricTransposedLinear",
    "call_layers",
    "dense",
    "replacement",
]
