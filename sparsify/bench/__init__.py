"""What this machine can do: measured once, kept in a file, used to predict the time of a plan."""

from __future__ import annotations

from .cache import latency_model as latency_model
from .calibrate import calibrate as calibrate

__all__ = ["calibrate", "latency_model"]
