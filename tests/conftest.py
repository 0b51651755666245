"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import settings

from tests.support.purity import untouched as _untouched

torch.set_num_threads(1)  # small tensors: more threads only cost time
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture
def untouched() -> Callable[..., AbstractContextManager[None]]:
    """`with untouched(model):` fails when the block changes the model or anything global."""
    return _untouched
