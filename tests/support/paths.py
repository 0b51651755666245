"""Where things are, and Python processes that see the same package as the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_python(
    *arguments: str,
    cwd: Path | None = None,
    python: str | Path = sys.executable,
    checkout: bool = True,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run Python and return what it printed; with `checkout`, the sources are on its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if checkout:
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
    return done
