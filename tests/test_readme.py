"""The README is true: its Python runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT, run_python

README = (ROOT / "README.md").read_text("utf-8")
VERB = re.compile(r"(?:^|[\s/;&|])sparsify +([a-z]\w*)")
ONE_COMMAND = "import sys; from sparsify.cli import main; sys.exit(main(sys.argv[1:]))"


def _blocks(language: str) -> list[tuple[int, str]]:
    """The code blocks of a language, each with the line where it starts."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(README.count("\n", 0, m.start(1)) + 1, m[1]) for m in fence.finditer(README)]


def _verbs() -> list[str]:
    """The verbs of every `sparsify VERB` in the shell blocks."""
    return sorted({verb for _, block in _blocks("bash") for verb in VERB.findall(block)})


def test_there_are_blocks_to_check() -> None:
    assert _blocks("python")
    assert "demo" in _verbs()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace, in an empty folder, as a reader would."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for line, block in _blocks("python"):
        code = "\n" * (line - 1) + block  # so that a traceback shows the README's line
        exec(compile(code, str(ROOT / "README.md"), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("verb", _verbs())
def test_shell_blocks_use_verbs_that_exist(verb: str) -> None:
    done = run_python("-c", ONE_COMMAND, verb, "--help")
    assert verb in done.stdout


@pytest.mark.parametrize("name", ["demo", "test"])
def test_the_two_commands_are_marked(name: str) -> None:
    """`.ci/run` takes the test command from between its markers."""
    pattern = rf"<!-- {name}-command -->\n```bash\n([^\n]+)\n```\n<!-- /{name}-command -->"
    assert len(re.findall(pattern, README)) == 1
