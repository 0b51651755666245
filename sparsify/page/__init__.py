"""A plan as one HTML page that needs nothing but itself."""

from __future__ import annotations

from .report import write_report

__all__ = ["write_report"]
