"""What a user asks for: how much may stay, and exceptions for some layers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import ConfigError
from .match import Pattern

__all__ = ["Budget", "Rule", "as_budget"]


def _is_finite(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _check_share(name: str, value: float) -> None:
    if not _is_finite(value) or not 0 < value <= 1:
        raise ConfigError(
            f"{name} must be a share above 0 and at most 1 of what the replaced dense layers had "
            f"(0.1 keeps a tenth); got {value!r}."
        )


@dataclass(frozen=True)
class Budget:
    """How much of the replaced dense layers may stay; never exceeded.

    Args:
        parameters: share of their parameters, in (0, 1].
        flops: share of their FLOPs, in (0, 1]; equal to the share of parameters for Linear layers,
            another one for convolutions with a stride, which then need example inputs.
        latency_s: seconds that the replaced layers may take together in one run of the model on
            this machine, as its latency model predicts; above 0. Needs example inputs.

    Raises:
        ConfigError: a limit is out of range, or none is given.

    Example:
        >>> Budget(parameters=0.1)
        Budget(parameters=0.1, flops=None, latency_s=None)
    """

    parameters: float | None = None
    flops: float | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (self.parameters, self.flops, self.latency_s) == (None, None, None):
            raise ConfigError(
                "A Budget needs parameters= or flops= (a share in (0, 1]), or latency_s=; got none."
            )
        for name in ("parameters", "flops"):
            value = getattr(self, name)
            if value is not None:
                _check_share(f"budget {name}", value)
        if self.latency_s is not None and not (_is_finite(self.latency_s) and self.latency_s > 0):
            raise ConfigError(
                f"budget latency_s must be seconds above 0, such as 0.01; got {self.latency_s!r}."
            )

    def to_json(self) -> dict[str, float | None]:
        """As plain data."""
        return asdict(self)

    def share(self) -> float:
        """The share of its parameters, which are its FLOPs, that a single layer may keep.

        Raises:
            ConfigError: it limits seconds, which depend on more than the layer.

        Example:
            >>> Budget(parameters=0.5, flops=0.1).share()
            0.1
        """
        if self.latency_s is not None:
            raise ConfigError(
                "Seconds depend on the rows of a layer's input: a budget of latency_s goes with a "
                "model and its example_inputs; a fabric alone takes parameters= and flops=."
            )
        return min(share for share in (self.parameters, self.flops) if share is not None)

    def __str__(self) -> str:
        """As "0.1 of the parameters and 0.2 of the FLOPs"."""
        shares = {"parameters": self.parameters, "FLOPs": self.flops}
        limits = [f"{share:.3g} of the {what}" for what, share in shares.items() if share]
        if self.latency_s is not None:
            limits.append(f"{self.latency_s:.3g} s")
        return " and ".join(limits)


@dataclass(frozen=True)
class Rule:
    """An exception for the layers that a pattern takes; the first rule that takes a layer wins.

    Args:
        pattern: which layers (see `sparsify.match`): a glob, "re:" and an expression, a class or a
            predicate of (name, module).
        topology: a family by name, or a topology; None leaves the choice to the planner.
        budget: their own share, as in `Budget` (a float is a share of the parameters); None keeps
            the global one.
        options: options of the family, e.g. {"blocks": 8}; sizes instead of a budget.
        keep: leave these layers dense.

    Raises:
        ConfigError: options without a topology or with a budget, keep with anything else.

    Example:
        >>> Rule("encoder.*.fc1", topology="monarch", budget=0.05).topology
        'monarch'
    """

    pattern: Pattern
    topology: Any = None
    budget: float | Budget | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keep: bool = False

    def __post_init__(self) -> None:
        """Check that the fields agree."""
        if self.budget is not None:
            as_budget(self.budget)
        if self.options and self.topology is None:
            raise ConfigError(f"A Rule with options needs a topology; got options={self.options}.")
        if self.options and self.budget is not None:
            raise ConfigError("A Rule takes options or a budget, not both.")
        if self.keep and (self.topology or self.budget is not None):
            raise ConfigError("A Rule that keeps layers dense takes no topology and no budget.")


def as_budget(value: float | Budget) -> Budget:
    """A float is a share of the parameters.

    Raises:
        ConfigError: neither a number in (0, 1] nor a Budget.

    Example:
        >>> as_budget(0.25)
        Budget(parameters=0.25, flops=None, latency_s=None)
    """
    if isinstance(value, Budget):
        return value
    _check_share("budget", value)
    return Budget(parameters=float(value))
