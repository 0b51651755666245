"""Which machine this is, as far as times depend on it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

from ..fabric import Fabric, Stage
from ..ops.dispatch import select
from ..version import package_version

__all__ = ["live_kernels", "processor", "versions"]


def processor() -> str:
    """The name of the processor, as the operating system knows it.

    Example:
        >>> bool(processor())
        True
    """
    name = ""
    if sys.platform == "linux":
        name = _from_cpuinfo()
    elif sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine() or "unknown"


def versions() -> tuple[str, ...]:
    """The versions that the times of layers depend on.

    Example:
        >>> [text.split()[0] for text in versions()]
        ['torch', 'sparsify']
    """
    return (f"torch {torch.__version__}", f"sparsify {package_version()}")


def live_kernels() -> tuple[str, ...]:
    """Those that the operators choose now, for linear layers and for convolutions.

    Example:
        >>> live_kernels()
        ('Portable', 'Portable')
    """
    text = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),)).to_json()
    return tuple(
        type(select(text, "cpu", torch.float32, is_conv)).__name__ for is_conv in (False, True)
    )


def _from_cpuinfo() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, "")
