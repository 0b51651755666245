"""Graphs within the Ramanujan bound that are known by construction."""

from __future__ import annotations

import math

import numpy as np

from ..fabric import GraphStage, Stage, Weighted
from ..steps.graphs import Paley
from ..steps.graphs.numbers import is_prime
from .spectra import additive_sigma2, ramanujan_bound

__all__ = ["explicit"]


def explicit(in_features: int, out_features: int, degree: int) -> Weighted | None:
    """A stage of a degree whose second singular value is known to be within the bound.

    A complete graph, a finite plane, or power residues modulo a prime; None where there is none.

    Args:
        in_features: width of the input, a multiple of out_features or the other way round.
        out_features: width of the output.
        degree: weights per output.

    Example:
        >>> str(explicit(25, 25, 5)), str(explicit(5, 5, 5)), explicit(25, 25, 6)
        ('plane:25->25 degree 5', '(1,5,5,1)', None)
    """
    nodes = min(in_features, out_features)
    links, rest = divmod(degree, in_features // nodes)
    if degree == in_features:
        return Stage(1, out_features, in_features, 1)
    if rest or not links:
        return None
    bound = ramanujan_bound(degree, out_features * degree / in_features)
    if is_prime(links) and nodes == links**2 and 1 / math.sqrt(links) <= bound:
        return GraphStage("plane", in_features, out_features, degree)
    if is_prime(nodes) and (nodes - 1) % links == 0:
        offsets = Paley().offsets(nodes, links, (), 0)
        if additive_sigma2(offsets[np.newaxis], nodes)[0] <= bound:
            return GraphStage("paley", in_features, out_features, degree)
    return None
