"""One dense operation of a model, and what becomes of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from .errors import ConfigError, nearest
from .fabric import Fabric

__all__ = ["Rival", "Site"]

Decision = Literal["replace", "keep"]

_LEAST = {
    "in_features": 0,
    "out_features": 0,
    "groups": 1,
    "copies": 1,
    "calls": 0,
    "rows": 0,
    "in_rows": 0,
}
"""Whole-number field -> the least it may be; rows and in_rows may be None too. A layer that is not
initialised yet has no features."""


@dataclass(frozen=True)
class Rival:
    """The best fabric of another family for a site, and why it was not taken.

    Args:
        family: the call that makes it.
        parameters: its weights.
        score: by the criterion of the choice; None where a gate had spoken before.
        why: what it lost by.

    Example:
        >>> Rival("low_rank(rank=51)", 104448, None, "rank 51 of 1024").why
        'rank 51 of 1024'
    """

    family: str
    parameters: int
    score: float | None
    why: str


@dataclass(frozen=True)
class Site:
    """One dense operation of a model that could become a fabric.

    Args:
        name: dotted path of the module that owns the weight ("" for the model itself), with the
            parameter's name behind it where the owner is no layer we know.
        kind: "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d" and so on, or what else
            it is.
        in_features: inputs (channels of a convolution, all groups).
        out_features: outputs.
        kernel: spatial taps of a convolution.
        groups: groups of a convolution.
        copies: matrices stacked in one parameter, such as experts; each row meets one of them.
        calls: how often one run of the model uses it; 0 where it was not used.
        rows: input vectors per call (positions of the output, for a convolution); None if unknown.
        in_rows: positions of the input of a convolution; None where equal to rows.
        decision: "replace" or "keep".
        by_user: whether the user's own exclude, include, rule or edit keeps it.
        error: relative squared error of the fabric's projection of the trained weight; of the
            output, where inputs for calibration were given. None where nothing is projected.
        reason: why, in a few words.
        fabric: the fabric it becomes, None where it is kept.
        paths: every path of the module, where there are several.
        rivals: the best fabric of each other family, where the planner chose.

    Raises:
        ConfigError: a field is of another type or out of range, or the fabric does not fit.

    Example:
        >>> Site("fc1", "linear", 784, 256, rows=2).dense_parameters
        200704
    """

    name: str
    kind: str
    in_features: int
    out_features: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    copies: int = 1
    calls: int = 1
    rows: int | None = None
    in_rows: int | None = None
    decision: Decision = "replace"
    reason: str = ""
    fabric: Fabric | None = None
    paths: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    by_user: bool = False
    error: float | None = None

    def __post_init__(self) -> None:
        """Check the fields, which plans from files bring along."""
        for name in ("name", "kind", "reason"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"The {name} of a site is a text; got {getattr(self, name)!r}.")
        for name, least in _LEAST.items():
            self._check_whole(name, getattr(self, name), least)
        for name, inner in (("kernel", int), ("paths", str)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(isinstance(v, inner) for v in values):
                raise ConfigError(
                    f"The {name} of site {self.name!r} is a tuple of {inner.__name__}; "
                    f"got {values!r}."
                )
        for size in self.kernel:
            self._check_whole("kernel", size, 1)
        if not isinstance(self.by_user, bool):
            raise ConfigError(
                f"by_user of site {self.name!r} is true or false; got {self.by_user!r}."
            )
        if self.decision not in ("replace", "keep"):
            raise ConfigError(f"A decision is 'replace' or 'keep'; got {self.decision!r}.")
        if not isinstance(self.rivals, tuple) or not all(
            isinstance(rival, Rival) for rival in self.rivals
        ):
            raise ConfigError(
                f"The rivals of site {self.name!r} are a tuple of Rival; got {self.rivals!r}."
            )
        self._check_error()
        self._check_fabric()

    def _check_error(self) -> None:
        is_number = isinstance(self.error, (int, float)) and not isinstance(self.error, bool)
        if self.error is not None and not (is_number and 0 <= self.error < math.inf):
            raise ConfigError(
                f"The error of site {self.name!r} is a number of 0 or more; got {self.error!r}."
            )

    def _check_whole(self, name: str, value: object, least: int) -> None:
        if value is None and name in ("rows", "in_rows"):
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f"The {name} of site {self.name!r} must be a whole number of "
                f"{least} or more; got {value!r}."
            )

    def _check_fabric(self) -> None:
        fabric = self.fabric
        if fabric is None:
            return
        if not isinstance(fabric, Fabric):
            raise ConfigError(
                f"Site {self.name!r} takes a Fabric, see sp.fabric(...); "
                f"got {type(fabric).__name__}."
            )
        kernel = self.kernel if math.prod(self.kernel) > 1 else ()
        sizes = (self.in_features, self.out_features, kernel)
        if (fabric.in_features, fabric.out_features, fabric.kernel) != sizes:
            raise ConfigError(
                f"{self.name} is {self.in_features} -> {self.out_features} with kernel "
                f"{self.kernel}; got a fabric {fabric.in_features} -> {fabric.out_features} with "
                f"{fabric.kernel}."
            )
        if not fabric.separates(self.groups):
            raise ConfigError(f"{self.name} has {self.groups} groups; {fabric} mixes the groups.")

    @property
    def dense_parameters(self) -> int:
        """Weights of the dense operation, bias not counted."""
        taps = math.prod(self.kernel)
        return self.in_features * self.out_features * taps // self.groups * self.copies

    @property
    def parameters(self) -> int:
        """Weights after the decision."""
        return self.fabric.parameters if self.fabric is not None else self.dense_parameters

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.kind.startswith("conv_transpose")

    @property
    def _tap_rows(self) -> int:
        """Positions that all taps are multiplied at: of the input, where they spread from there."""
        rows = self.in_rows if self.is_transposed and self.in_rows is not None else self.rows
        return rows or 1

    @property
    def dense_flops(self) -> int:
        """FLOPs of the dense operation in one run of the model, one row where rows are unknown."""
        return 2 * self.dense_parameters // self.copies * self._tap_rows * self.calls

    @property
    def flops(self) -> int:
        """FLOPs in one run after the decision."""
        return self.flops_of(self.fabric) if self.fabric is not None else self.dense_flops

    def flops_of(self, fabric: Fabric) -> int:
        """FLOPs of one run with a fabric: stages before the spatial one see the input's image."""
        rows = self.rows or 1
        is_input = fabric.kernel or self.is_transposed
        before = self.in_rows if self.in_rows is not None and is_input else rows
        total = 0
        for branch in fabric.branches:
            position = before
            for step in branch:
                total += 2 * step.parameters * (self._tap_rows if step.kernel else position)
                if step.kernel:
                    position = rows
        return total * self.calls

    def kept(self, reason: str, *, by_user: bool = False) -> Site:
        """The same site, to stay dense for this reason."""
        return replace(
            self,
            decision="keep",
            reason=reason,
            fabric=None,
            rivals=(),
            by_user=by_user,
            error=None,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        fabric = None if self.fabric is None else json.loads(self.fabric.to_json())
        lists = {"kernel": list(self.kernel), "paths": list(self.paths)}
        return {**data, **lists, "fabric": fabric, "rivals": [asdict(r) for r in self.rivals]}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Site:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: an unknown field, a field of another type, a decision without its fabric.
        """
        known = {field.name for field in fields(Site)}
        for key in data:
            if key not in known:
                raise ConfigError(f"A site of a plan has no field {key!r}.{nearest(key, known)}")
        fabric = data["fabric"]
        if (data["decision"] == "replace") != (fabric is not None):
            raise ConfigError(f"Site {data['name']!r}: a fabric goes with the decision 'replace'.")
        return Site(
            **{
                **data,
                "kernel": _as_tuple(data["kernel"]),
                "paths": _as_tuple(data["paths"]),
                "fabric": None if fabric is None else Fabric.from_json(json.dumps(fabric)),
                "rivals": tuple(Rival(**rival) for rival in data.get("rivals", ())),
            }
        )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
