"""Saving and loading sparse models, and looking into files."""

from __future__ import annotations

from .model import load, save

__all__ = ["load", "save"]
