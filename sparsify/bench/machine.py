"""Which machine this is, as far as times depend on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from ..fabric import Fabric, Stage
from ..native.library import library
from ..nn import FabricLayer, FabricLinear
from ..ops.dispatch import kernel_names, select
from ..ops.kernels import KERNELS
from ..ops.kernels.base import Kernel
from ..version import package_version

__all__ = ["cores", "instruction_sets", "kernels_of", "live_kernels", "processor", "versions"]


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


def cores() -> int:
    """Those that this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        >>> linear, convolution = live_kernels()
        >>> linear in ("Native", "Portable"), convolution
        (True, 'Portable')
    """
    text = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),)).to_json()
    return tuple(
        type(select(text, "cpu", torch.float32, is_conv)).__name__ for is_conv in (False, True)
    )


def kernels_of(module: nn.Module) -> str:
    """The kernels that the operators choose now for the fabrics of a module, by name.

    Args:
        module: a layer, or a model with layers of fabrics.

    Example:
        >>> kernels_of(FabricLinear(Fabric(16, 16, ((Stage(4, 4, 4, 1),),)))) in kernel_names()
        True
    """
    found: dict[str, None] = {}
    for layer in module.modules():
        if isinstance(layer, FabricLayer):
            weight = layer.factors[0]
            is_conv = not isinstance(layer, FabricLinear)
            kernel = select(layer.fabric.to_json(), weight.device.type, weight.dtype, is_conv)
            found[_name(kernel)] = None
    return ", ".join(found)


def instruction_sets() -> str:
    """What torch's own kernels and the native library compute with here.

    Example:
        >>> instruction_sets().startswith("torch ")
        True
    """
    native = library()
    own = "no native library" if native is None else f"native {native.sparsify_isa().decode()}"
    return f"torch {torch.backends.cpu.get_cpu_capability().lower()}, {own}"


def _name(kernel: Kernel) -> str:
    return next((n for n in kernel_names() if KERNELS[n] is type(kernel)), type(kernel).__name__)


def _from_cpuinfo() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, "")
