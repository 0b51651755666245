"""First weights for the new layers, each from its own generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import ConfigError
from ..init import PROJECT, check_init, dense_gain, generator, initialise
from ..nn import FabricLayer, dense, effective_weight
from ..nn.matrices import array_of, matrix_of, matrix_of_fabric
from ..select.trained import Trained
from .base import Pass, PassError, PassResult, Program

__all__ = ["Initialise"]


@dataclass(frozen=True)
class Initialise(Pass):
    """Fill the factors of every replaced layer so that its output varies as the dense one's did.

    Args:
        scheme: a name of `sparsify.init`, such as "orthogonal"; or "project", for the weights that
            come nearest to the dense layer's own.
        seed: any whole number; every site draws from a generator of (seed, its name).
        trained: for "project", what has been projected already and what is known of the inputs.

    Requires: replaced layers. Ensures: all factors are finite.
    Before: fc1 = self.fc1(x)                   # factors not initialised
    After:  fc1 = self.fc1(x)                   # Var(fc1) as that of the dense fc1
    """

    name: ClassVar[str] = "initialise"
    scheme: str = "orthogonal"
    seed: int = 0
    trained: Trained | None = None

    def __post_init__(self) -> None:
        """Check the options before any work is done."""
        check_init(self.scheme)
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
        if self.scheme == PROJECT:
            self._project(name, old, layer)
            return
        initialise(
            layer.factors,
            layer.fabric,
            self.scheme,
            gain=_gain(old, layer),
            random=generator(self.seed, name),
            centred=layer.is_centred,
            spreads=layer.spreads,
        )

    @torch.no_grad()
    def _project(self, name: str, old: nn.Module, layer: FabricLayer) -> None:
        trained = self.trained or Trained(lambda name: array_of(old, name))
        read = dense(old)
        made = trained.project(name, layer.fabric, read.groups if read else 1)
        for factor, value in zip(layer.factors, made.factors, strict=True):
            factor.copy_(torch.from_numpy(value))
        mean = trained.mean_of(name)
        if mean is not None and layer.bias is not None:
            missing = (matrix_of(old) - matrix_of_fabric(layer, old)).double().cpu()
            rows = missing.reshape(len(mean), layer.bias.numel() // len(mean), -1)
            shift = torch.bmm(rows, torch.from_numpy(mean).unsqueeze(2)).reshape(-1)
            bias: torch.Tensor = old.bias  # type: ignore[assignment]
            layer.bias.copy_(bias.double() + shift.to(layer.bias.device))

    def ensures(self, before: Program, after: Program) -> None:
        """Nothing was left as allocated memory happened to be."""
        for site in after.plan.replaced if after.plan is not None else ():
            layer = after.module.get_submodule(site.name)
            factors = layer.factors if isinstance(layer, FabricLayer) else ()
            if not all(bool(f.isfinite().all()) for f in factors if not f.is_meta):
                raise PassError(f"{self.name} left factors of {site.name!r} that are not finite.")


def _gain(old: nn.Module, layer: FabricLayer) -> float:
    weight = effective_weight(old)
    gain = dense_gain(weight if isinstance(weight, torch.Tensor) else None, layer.fan_in)
    # A dense weight with NaN or infinity says nothing about the scale wanted.
    return gain if math.isfinite(gain) else layer.default_gain
