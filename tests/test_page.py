"""The HTML page of a plan: complete, alone, harmless, all or nothing."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparsify.cli import main
from sparsify.config import Budget
from sparsify.errors import ConfigError, FileError, MissingExtraError
from sparsify.page import write_report
from sparsify.plan import Plan
from sparsify.select.score import score, score_errors
from sparsify.site import Rival, Site
from sparsify.topology import LowRank, Monarch

matplotlib = pytest.importorskip("matplotlib")

MLP = "tests.support.factories:mlp"
EVIL = "a.<script>alert('x')</script>&\"'"
RIVALS = (Rival("low_rank(rank=8)", 1024, None, "rank 8 <of> 64"), Rival("clos()", 9, 1.5, "late"))
PLAN = Plan(
    (
        Site("stem", "conv2d", 3, 8, kernel=(7, 7), rows=4).kept("only 3 inputs"),
        Site("fc1", "linear", 64, 64, rows=2, reason="best of 3", rivals=RIVALS,
             fabric=Monarch(blocks=8).build(64, 64)),
        Site("fc2", "linear", 64, 64, rows=2, fabric=Monarch(blocks=8).build(64, 64)),
        Site("conv", "conv2d", 16, 16, kernel=(3, 3), rows=9,
             fabric=LowRank(rank=2).build(16, 16).with_kernel((3, 3))),
        Site(EVIL, "linear", 64, 10, rows=2).kept("final head"),
    ),
    Budget(parameters=0.25, flops=0.5),
)  # fmt: skip

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page strictly: tags, attributes, text, rows of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def images(self) -> list[bytes]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [base64.b64decode(source.partition(",")[2], validate=True) for source in sources]


def _page(plan: Plan, folder: Path, title: str = "A model") -> Page:
    write_report(plan, folder / "plan.html", title=title)
    return Page((folder / "plan.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _page(PLAN, tmp_path_factory.mktemp("page"))


def test_every_site_has_its_row(page: Page) -> None:
    rows = {row[0]: row for row in page.rows}
    assert rows["layer"][:4] == ["layer", "kind", "shape", "decision"]
    for site in PLAN.sites:
        row = rows[site.name]
        assert row[1] == site.kind
        assert row[2].startswith(f"{site.in_features} -> {site.out_features}")
        assert row[3] == site.decision
        assert row[4] == (site.fabric.family if site.fabric else "-")
        assert row[5] == f"{site.parameters:,}"
        assert row[6] == f"{site.parameters / site.dense_parameters:.1%}"
        assert row[7] == site.reason
        assert all(f"{r.family}, {r.parameters:,}: {r.why}" in row[8] for r in site.rivals)


def test_the_numbers_of_the_whole_plan(page: Page) -> None:
    assert PLAN.summary() in page.text
    dense, kept = 2 * 4096 + 9 * 256, 2 * 1024 + 2 * 16 * 10
    assert f"parameters of the replaced ones{dense:,} -> {kept:,}" in page.text
    share = PLAN.density
    assert f"0.25 of them may stay, {share:.3g} do ({share / 0.25:.0%})" in page.text
    flops = sum(site.flops for site in PLAN.replaced) / sum(s.dense_flops for s in PLAN.replaced)
    assert f"0.5 of them may stay, {flops:.3g} do" in page.text


def test_each_different_fabric_is_drawn_once_with_its_scores(page: Page) -> None:
    fabrics = [PLAN.sites[1].fabric, PLAN.sites[3].fabric]
    headings = [tag for tag, _ in page.tags if tag == "h3"]
    assert len(headings) == len(fabrics)
    assert len(page.images) == 1 + len(fabrics)
    assert "used by 2 layers" in page.text
    for fabric in fabrics:
        assert fabric is not None
        assert str(fabric) in page.text
        assert f"effective width{'≈ ' * ('effective_width' in score_errors(fabric))}" in page.text
        assert f"generic rank{score(fabric)['generic_rank']:.0f}" in page.text
    assert len([1 for tag, _ in page.tags if tag == "li"]) == 2 * 16 + len(RIVALS)


def test_pictures_decode(page: Page) -> None:
    for data in page.images:
        pixels = matplotlib.image.imread(io.BytesIO(data))
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 0.05
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")


def test_names_are_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = _page(PLAN, tmp_path, title=EVIL)
    assert page.text.count(EVIL) >= 3  # title, heading, row
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "href"]
        assert "src" not in attributes or tag == "img"
    text = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


def test_the_most_used_fabrics_are_drawn_and_the_rest_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsify.page.report._MOST_DRAWN", 3)
    sites = [
        Site(f"layer{n}x{copy}", "linear", 8 + n, 8, fabric=LowRank(rank=1).build(8 + n, 8))
        for n in range(5)
        for copy in range(1 + (n > 1))
    ]
    page = _page(Plan(tuple(sites)), tmp_path)
    assert len(page.images) == 1 + 3
    assert "2 more, not drawn" in page.text
    assert [row[1] for row in page.rows[-2:]] == ["layer0x0", "layer1x0"]


def test_plans_with_nothing_replaced_or_nothing_at_all(tmp_path: Path) -> None:
    kept = Plan(tuple(site.kept("asked") for site in PLAN.sites))
    page = _page(kept, tmp_path)
    assert "0.1, nothing replaced" in page.text
    assert len(page.images) == 1
    assert "The fabrics" not in page.text
    assert "0 of 0 sites replaced" in _page(Plan(()), tmp_path).text


def test_half_a_character_in_a_name_is_written_as_its_number(tmp_path: Path) -> None:
    site = dataclasses.replace(PLAN.sites[0], name="\ud800.fc")
    write_report(Plan((site,)), tmp_path / "plan.html", title="t")
    assert "&#55296;.fc" in (tmp_path / "plan.html").read_text(encoding="utf-8")


def test_the_same_plan_gives_the_same_page_and_nothing_changes(
    tmp_path: Path, untouched: object
) -> None:
    small = Plan(PLAN.sites[:2])
    with untouched():  # type: ignore[operator]
        write_report(small, tmp_path / "a.html", title="t")
    write_report(small, tmp_path / "b.html", title="t")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_it_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.html"
    path.write_text("old")
    with pytest.raises(FileError, match="exists already"):
        write_report(PLAN, path, title="t", overwrite=False)
    with pytest.raises(ConfigError, match=r"about a Plan; got str"):
        write_report("plan", path, title="t")  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingExtraError, match=r'pip install "sparsify-fabric\[plot\]"'):
            write_report(PLAN, path, title="t")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(FileError, match="No space left"):
            write_report(PLAN, path, title="t")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.html"]


# --- on the command line ------------------------------------------------------------------------


def _run(*arguments: str) -> int:
    return main(["plan", MLP, "--budget", "0.25", *arguments])


def test_the_command_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run("--report", "out.html", "-o", "plan.json") == 0
    out, err = capsys.readouterr()
    assert "2 of 3 sites replaced" in out
    assert "wrote out.html" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.html", "plan.json"]
    page = Page((tmp_path / "out.html").read_text(encoding="utf-8"))
    plan = Plan.from_json((tmp_path / "plan.json").read_text())
    assert [row[0] for row in page.rows[1 : 1 + len(plan.sites)]] == [s.name for s in plan.sites]
    assert MLP in page.text


def test_the_command_refuses_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.html").write_text("old")
    assert _run("--report", "out.html") == 6
    assert "pass --force to replace it" in capsys.readouterr().err
    assert _run("--report", "same", "-o", "same") == 6
    assert _run("--report", "no/out.html") == 6
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert _run("--report", "out.html", "--force", "-o", "plan.json") == 2
    assert 'pip install "sparsify-fabric[plot]"' in capsys.readouterr().err
    assert (tmp_path / "out.html").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.html"]
    assert _run("--report", "out.html", "--force") == 0
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
