"""The core on another architecture: compiled for it, run in an emulator."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
NATIVE = ROOT / "sparsify" / "native"
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=fast", "-Wno-psabi", f"-I{NATIVE}")


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR}",
)
def test_neon_computes_what_plain_loops_do(tmp_path: Path) -> None:
    sources = [*sorted((NATIVE / "core").glob("*.cpp")), ROOT / "tests" / "native" / "check.cpp"]

    def compiled(source: Path) -> Path:
        target = tmp_path / f"{source.stem}.o"
        isa = ["-DSPARSIFY_ISA=neon"] if source.stem == "isa" else []
        subprocess.run([COMPILER, *FLAGS, *isa, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = tmp_path / "check"
    subprocess.run([COMPILER, "-static", *objects, "-o", program, "-lm", "-lpthread"], check=True)
    told = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.startswith("neon ")
