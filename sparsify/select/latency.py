"""How long a layer takes on one machine, predicted from counts and measured costs.

A time is a sum of counts (see `terms`) times costs that are never negative. A matrix library works
in another way for one row than for a thousand, so linear layers have a set of costs for each of a
few numbers of rows, and what lies between is interpolated. `sparsify.bench` measures the costs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..fabric import Fabric, GraphStage
from ..site import Site
from .terms import (
    CONVOLUTION,
    DENSE,
    FABRIC,
    GRAPH,
    Terms,
    convolution_terms,
    dense_convolution_terms,
    dense_terms,
    fabric_terms,
    graph_stages,
    graph_terms,
)

__all__ = ["LatencyError", "LatencyModel", "Measured"]

Costs = tuple[float, ...]


class LatencyError(NamedTuple):
    """How far predictions are off, as shares of the measured times."""

    median: float
    p90: float


@dataclass(frozen=True)
class Measured:
    """One measurement that the fit has not seen.

    Args:
        site: what ran; its fabric, rows and sizes.
        measured: seconds.
        predicted: seconds.
    """

    site: Site
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """The relative error of the prediction; negative where it is too short."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class LatencyModel:
    """The time of dense layers and fabrics on one machine, forward, repeated calls.

    Args:
        device: the processor.
        threads: threads that torch computed with.
        dtype: of operands and weights.
        kernels: the kernels that ran the fabrics.
        versions: of torch and of this package.
        rows: numbers of rows that linear layers were measured at, ascending.
        dense_costs: for each number of rows, seconds per count of `terms.DENSE`.
        fabric_costs: for each number of rows, seconds per count of `terms.FABRIC`.
        graph_costs: seconds per count of `terms.GRAPH`.
        convolution_costs: seconds per count of `terms.CONVOLUTION`.
        held_out: measurements that the fit has not seen.

    Raises:
        ConfigError: the costs are negative, not finite, or not as many as there are counts.

    Example:
        >>> from sparsify.bench import latency_model
        >>> latency_model().dense(1024, 1024, rows=64)  # doctest: +SKIP
        0.0016
    """

    device: str
    threads: int
    dtype: str
    kernels: tuple[str, ...]
    versions: tuple[str, ...]
    rows: tuple[int, ...]
    dense_costs: tuple[Costs, ...]
    fabric_costs: tuple[Costs, ...]
    graph_costs: Costs
    convolution_costs: Costs
    held_out: tuple[Measured, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers, which files bring along."""
        if not self.rows or self.rows[0] < 1 or list(self.rows) != sorted(set(self.rows)):
            raise ConfigError(
                f"The rows of a latency model ascend from 1 or more; got {self.rows}."
            )
        laws = (
            ("dense", DENSE, self.dense_costs, len(self.rows)),
            ("fabric", FABRIC, self.fabric_costs, len(self.rows)),
            ("graph", GRAPH, (self.graph_costs,), 1),
            ("convolution", CONVOLUTION, (self.convolution_costs,), 1),
        )
        for name, counts, sets, times in laws:
            if len(sets) != times or any(len(costs) != len(counts) for costs in sets):
                raise ConfigError(
                    f"The {name} law of a latency model has {times} times {len(counts)} costs; "
                    f"got {[len(costs) for costs in sets]}. Measure again: sparsify bench "
                    "--calibrate --force."
                )
            for cost in itertools.chain.from_iterable(sets):
                if not (math.isfinite(cost) and cost >= 0):
                    raise ConfigError(
                        f"A cost of a latency model is a number of 0 or more; the {name} law has "
                        f"{cost!r}. Measure again: sparsify bench --calibrate --force."
                    )

    @property
    def error(self) -> LatencyError:
        """Median and 90 % quantile of the relative error on held-out shapes; nan without any."""
        off = sorted(abs(one.error) for one in self.held_out)
        if not off:
            return LatencyError(math.nan, math.nan)
        return LatencyError(_quantile(off, 0.5), _quantile(off, 0.9))

    def dense(self, in_features: int, out_features: int, rows: int) -> float:
        """Seconds of a dense linear layer.

        Args:
            in_features: width of the input, 1 or more.
            out_features: width of the output, 1 or more.
            rows: input vectors, 1 or more.
        """
        return self._interpolated(self.dense_costs, dense_terms(in_features, out_features), rows)

    def fabric(self, fabric: Fabric, rows: int) -> float:
        """Seconds of a linear layer made of a fabric.

        A graph stage becomes a dense matrix at every call, and is multiplied as one.

        Args:
            fabric: a fabric without a kernel.
            rows: input vectors, 1 or more.
        """
        graphs = graph_stages(fabric)
        seconds = sum(_dot(self.graph_costs, graph_terms(stage, rows)) for stage in graphs)
        if len(graphs) < sum(map(len, fabric.branches)):
            seconds += self._interpolated(self.fabric_costs, fabric_terms(fabric), rows)
        return seconds

    def convolution(
        self,
        in_features: int,
        out_features: int,
        taps: int,
        groups: int,
        rows: int,
        in_rows: int,
    ) -> float:
        """Seconds of a dense convolution.

        Args:
            in_features: channels of the input, all groups.
            out_features: channels of the output.
            taps: spatial taps, all axes.
            groups: groups of channels.
            rows: positions of the output, all samples.
            in_rows: positions of the input, all samples.
        """
        terms = dense_convolution_terms(in_features, out_features, taps, groups, rows, in_rows)
        return _dot(self.convolution_costs, terms)

    def convolution_fabric(
        self, fabric: Fabric, rows: int, in_rows: int, transposed: bool = False
    ) -> float:
        """Seconds of a convolution made of a fabric; stages before the spatial one see in_rows.

        Args:
            fabric: with its kernel, or without one for a 1 x 1 convolution.
            rows: positions of the output, all samples.
            in_rows: positions of the input, all samples.
            transposed: whether it is a transposed convolution.
        """
        terms = convolution_terms(fabric, rows, in_rows, transposed)
        seconds = _dot(self.convolution_costs, terms)
        for branch in fabric.branches:
            before = in_rows if fabric.kernel or transposed else rows
            for step in branch:
                after = rows if step.kernel else before
                if isinstance(step, GraphStage):
                    channels, images = (step.in_features, step.out_features), (after, before)
                    if transposed:
                        channels, images = channels[::-1], images[::-1]
                    seconds += _dot(self.graph_costs, graph_terms(step, 0))
                    seconds += self.convolution(*channels, step.taps, 1, *images)
                before = after
        return seconds

    def site(self, site: Site, fabric: Fabric | None) -> float:
        """Seconds that a site takes in one run of the model, all its calls.

        Args:
            site: one dense operation; its own decision is not looked at.
            fabric: what it becomes, None for the dense operation.

        Raises:
            ConfigError: nobody knows how many rows the site has.
        """
        if site.calls == 0:
            return 0.0
        if site.rows is None:
            raise ConfigError(
                f"Predicting the time of {site.name or 'the model'} needs its number of rows, "
                "which is unknown. Give example_inputs."
            )
        rows = max(1, site.rows)
        in_rows = rows if site.in_rows is None else max(1, site.in_rows)
        if site.kind.startswith("conv"):
            # A transposed convolution does what the other does, from its outputs to its inputs.
            channels, images = (site.in_features, site.out_features), (rows, in_rows)
            if site.is_transposed:
                channels, images = channels[::-1], images[::-1]
            seconds = (
                self.convolution(*channels, math.prod(site.kernel), site.groups, *images)
                if fabric is None
                else self.convolution_fabric(fabric, rows, in_rows, site.is_transposed)
            )
        elif fabric is None:
            inputs, outputs = site.in_features // site.groups, site.out_features // site.groups
            seconds = self.dense(inputs, outputs, rows) * site.groups
        else:
            seconds = self.fabric(fabric, rows)
        return seconds * site.calls

    def to_json(self) -> str:
        """As text that `from_json` reads."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        held_out = [
            {"site": m.site.to_json(), "measured": m.measured, "predicted": m.predicted}
            for m in self.held_out
        ]
        return json.dumps({**data, "held_out": held_out}, indent=1)

    @staticmethod
    def from_json(text: str) -> LatencyModel:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: the text is something else.
        """
        try:
            data = json.loads(text)
            held_out = tuple(
                Measured(Site.from_json(one["site"]), one["measured"], one["predicted"])
                for one in data.pop("held_out")
            )
            return LatencyModel(**{k: _frozen(v) for k, v in data.items()}, held_out=held_out)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"This is no latency model: {error}.") from error

    def _interpolated(self, law: Sequence[Costs], terms: Terms, rows: int) -> float:
        """On a line between two measured numbers of rows; beyond the last, in proportion."""
        before = after = 0.0
        place = 0
        for place, costs in enumerate(law):
            before, after = after, max(after, _dot(costs, terms))
            if rows <= self.rows[place]:
                break
        upper = self.rows[place]
        if rows >= upper:
            return after * rows / upper
        if place == 0:
            return after
        lower = self.rows[place - 1]
        return before + (after - before) * (rows - lower) / (upper - lower)


def _dot(costs: Costs, terms: Terms) -> float:
    return sum(cost * count for cost, count in zip(costs, terms, strict=True))


def _quantile(ascending: Sequence[float], share: float) -> float:
    """The quantile, interpolated as numpy does."""
    place = share * (len(ascending) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (place - low) * (ascending[high] - ascending[low])


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
