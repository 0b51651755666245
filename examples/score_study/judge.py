"""How well a score foretells the losses of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

__all__ = ["agreement", "final_loss", "noise", "regret"]


def final_loss(line: dict[str, Any]) -> float:
    """Test loss at the best base rate, mean over seeds."""
    return float(np.mean(line["losses"], axis=1).min())


def noise(lines: Sequence[dict[str, Any]]) -> float:
    """How well a group agrees with itself: rank correlation of two halves of the seeds."""
    losses = np.array([_at_best_rate(line) for line in lines])
    half = losses.shape[1] // 2
    return agreement(-losses[:, :half].mean(1), losses[:, half : 2 * half].mean(1))


def _at_best_rate(line: dict[str, Any]) -> list[float]:
    best: list[float] = min(line["losses"], key=sum)
    return best


def agreement(scores: Sequence[float], losses: Sequence[float]) -> float:
    """Spearman's rank correlation of a score with -loss: 1 where it orders all fabrics rightly."""
    if len(set(scores)) < 2:
        return 0.0
    return float(spearmanr(scores, -np.asarray(losses)).statistic)


def regret(scores: Sequence[float], losses: Sequence[float]) -> float:
    """What is lost by taking the fabric with the highest score: 0 the best one, 1 a median one.

    Example:
        >>> regret([3, 1, 2], [0.2, 0.4, 0.3]), regret([1, 2, 0], [0.2, 0.3, 0.4])
        (0.0, 1.0)
    """
    values, scored = np.asarray(losses, float), np.asarray(scores, float)
    picked = values[scored >= scored.max() - 1e-9].mean()
    best = values.min()
    return float((picked - best) / (np.median(values) - best))
