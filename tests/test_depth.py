"""512 layers of fabrics, no norm, no skip: the orthogonal init learns, PyTorch's does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT, run_python


@pytest.mark.slow
def test_512_layers(tmp_path: Path) -> None:
    """The example in full; measured: 95.0 % against 10.8 %."""
    text = run_python(str(ROOT / "examples" / "06_depth.py"), cwd=tmp_path).stdout
    default, orthogonal = (
        float(line.split("%")[0]) for line in text.splitlines() if "% right" in line
    )
    assert "512 layers" in text
    assert default < 20
    assert orthogonal >= 90
