"""A latency model for people: how its predictions compare with held-out measurements."""

from __future__ import annotations

from ..report import Row
from ..select.latency import LatencyModel
from ..site import Site
from .cache import cache_file

__all__ = ["facts", "rows"]


def facts(model: LatencyModel) -> dict[str, str | int | float | None]:
    """What the model holds for, and how far it is off.

    Args:
        model: of this machine.

    Example:
        >>> facts(latency_model())["dtype"]  # doctest: +SKIP
        'float32'
    """
    return {
        "processor": model.device,
        "threads": model.threads,
        "dtype": model.dtype,
        "kernels": ", ".join(dict.fromkeys(model.kernels)),
        "versions": ", ".join(model.versions),
        "held-out shapes": len(model.held_out),
        "median error": model.error.median,
        "90% of errors below": model.error.p90,
        "kept in": str(cache_file()),
    }


def rows(model: LatencyModel) -> list[Row]:
    """One line for each held-out measurement, the worst prediction first; times in microseconds.

    Args:
        model: any.

    Example:
        >>> [row["error"] for row in rows(latency_model())]  # doctest: +SKIP
        [-0.12, 0.031]
    """
    return [
        {
            "shape": _shape(one.site),
            "fabric": _fabric(one.site),
            "rows": one.site.rows,
            "measured us": round(1e6 * one.measured, 1),
            "predicted us": round(1e6 * one.predicted, 1),
            "error": round(one.error, 3),
        }
        for one in sorted(model.held_out, key=lambda one: -abs(one.error))
    ]


def _shape(site: Site) -> str:
    kernel = " " + "x".join(map(str, site.kernel)) if site.kernel else ""
    groups = f" in {site.groups} groups" if site.groups > 1 else ""
    return f"{site.in_features} -> {site.out_features}{kernel}{groups}"


def _fabric(site: Site) -> str:
    return "dense" if site.fabric is None else site.fabric.family or str(site.fabric)
