"""Pseudo-random permutations from whole-number arithmetic that every runtime has.

A seeded shuffle or graph is never stored. It is recomputed in numpy here and in standard ONNX
operators in an exported file, to the last bit alike. So there is nothing in it but sums, products
and remainders of int64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PRIME", "permutations", "round_keys"]

Indices = npt.NDArray[np.int64]

PRIME = 2**31 - 1
"""Modulus of the arithmetic: products of two numbers below it fit into int64."""

_ROUNDS = 3


def round_keys(seed: int) -> tuple[int, ...]:
    """The numbers below `PRIME` that a seed stands for, one per round (splitmix64).

    Example:
        >>> len(round_keys(0)), max(round_keys(0)) < PRIME
        (3, True)
    """
    keys = []
    for number in range(1, _ROUNDS + 1):
        mixed = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) % 2**64
        keys.append((mixed ^ (mixed >> 31)) % PRIME)
    return tuple(keys)


def permutations(count: int, size: int, seed: int) -> Indices:
    """Independent pseudo-random permutations of range(size), (count, size).

    The positions 0, 1, ... of the whole result are encrypted by x -> (x + key) ** 5 mod `PRIME`,
    round after round, which maps no two numbers to one, as 5 has no factor in common with PRIME - 1
    (the cipher MiMC, Albrecht et al. 2016, with small numbers). Their order within a row is the
    permutation.

    Example:
        >>> sorted(permutations(2, 5, seed=7)[1].tolist())
        [0, 1, 2, 3, 4]
    """
    codes = np.arange(count * size, dtype=np.int64)
    for key in round_keys(seed):
        codes = (codes + key) % PRIME
        square = codes * codes % PRIME
        codes = square * square % PRIME * codes % PRIME
    order: Indices = np.argsort(codes.reshape(count, size), axis=1)
    return order
