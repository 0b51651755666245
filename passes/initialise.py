"""First weights for the new layers, each from its own generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import ConfigError, nearest
from ..init import INITS, dense_gain, generator, initialise
from ..nn import FabricLayer, effective_weight
from .base import Pass, PassError, PassResult, Program

__all__ = ["Initialise"]


@dataclass(frozen=True)
class Initialise(Pass):
    """Fill the factors of every replaced layer so that its output varies as the dense one's did.

    Args:
        scheme: a name of `sparsify.init`: "orthogonal" or "variance".
        seed: any whole number; every site draws from a generator of (seed, its name).

    Requires: replaced layers. Ensures: all factors are finite.
    Before: fc1 = self.fc1(x)                   # factors not initialised
    After:  fc1 = self.fc1(x)                   # Var(fc1) as that of the dense fc1
    """

    name: ClassVar[str] = "initialise"
    scheme: str = "orthogonal"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options before any work is done."""
        if self.scheme not in INITS:
            raise ConfigError(
                f"There is no init {self.scheme!r}; there are {', '.join(INITS)}."
                f"{nearest(str(self.scheme), INITS)}"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ConfigError(f"seed must be a whole number; got {self.seed!r}.")

    def requires(self, program: Program) -> None:
        """The layers are there."""
        self.need(program.module is not program.original, "replaced layers")

    def run(self, program: Program) -> PassResult:
        """Fill layer by layer; a model on the meta device has nothing to fill."""
        old = dict(program.original.named_modules())
        new = dict(program.module.named_modules())
        filled = 0
        for site in program.plan.replaced if program.plan is not None else ():
            layer = new[site.name]
            if isinstance(layer, FabricLayer) and not layer.factors[0].is_meta:
                self.fill(site.name, old[site.name], layer)
                filled += 1
        return PassResult(program, filled > 0, f"{filled} layers initialised")

    def fill(self, name: str, old: nn.Module, layer: FabricLayer) -> None:
        """Fill the factors of one layer, which depends on nothing but these three.

        Args:
            name: of the site.
            old: the dense layer.
            layer: what replaces it; its factors are written to.
        """
        initialise(
            layer.factors,
            layer.fabric,
            self.scheme,
            gain=_gain(old, layer),
            random=generator(self.seed, name),
            centred=layer.is_centred,
            spreads=layer.spreads,
        )

    def ensures(self, before: Program, after: Program) -> None:
        """Nothing was left as allocated memory happened to be."""
        for site in after.plan.replaced if after.plan is not None else ():
            layer = after.module.get_submodule(site.name)
            factors = layer.factors if isinstance(layer, FabricLayer) else ()
            if not all(math.isfinite(f.sum().item()) for f in factors if not f.is_meta):
                raise PassError(f"{self.name} left factors of {site.name!r} that are not finite.")


def _gain(old: nn.Module, layer: FabricLayer) -> float:
    weight = effective_weight(old)
    gain = dense_gain(weight if isinstance(weight, torch.Tensor) else None, layer.fan_in)
    # A dense weight with NaN or infinity says nothing about the scale wanted.
    return gain if math.isfinite(gain) else layer.default_gain
