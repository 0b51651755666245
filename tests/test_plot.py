"""Pictures show what the fabric and the plan hold, and leave everything else alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsify import plot
from sparsify.errors import ConfigError, FileError, MissingExtraError
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.init import generator, initialise
from sparsify.plan import Plan
from sparsify.plot.canvas import plain_text
from sparsify.plot.matrices import MOST, mask_of, paths_of
from sparsify.plot.spectrum import singular_values
from sparsify.site import Site
from sparsify.topology import BlockDiagonal, Butterfly, Clos, LowRank, Monarch
from tests.support.fabrics import dense_matrix
from tests.support.paths import run_python

matplotlib = pytest.importorskip("matplotlib")

SHUFFLED = (Stage(4, 6, 4, 1), Shuffle(24, seed=3), Stage(4, 5, 6, 1))
SMALL = {
    "monarch": Monarch(blocks=4).build(16, 24),
    "wraps and folds": Monarch(blocks=8).build(61, 67),
    "low rank": LowRank(rank=3).build(20, 10),
    "butterfly": Butterfly(radix=2).build(16, 16),
    "clos": Clos(ingress=4, middle=3).build(16, 16),
    "shuffle": Fabric(16, 20, (SHUFFLED,)),
    "branches": Fabric(16, 20, (SHUFFLED, (Stage(1, 20, 16, 1),)), "two"),
    "graph": Fabric(16, 12, ((GraphStage("random", 16, 24, 4, seed=1), Stage(4, 3, 6, 1)),)),
    "convolution": Monarch(blocks=4).build(16, 16).with_kernel((3, 3)),
}
LARGE = {
    "equal cells": Monarch(blocks=8).build(544, 1088),
    "uneven cells": Monarch(blocks=8).build(513, 600),
    "wraps": BlockDiagonal(blocks=8).build(601, 100),
    "graph": Fabric(520, 600, ((GraphStage("random", 520, 600, 13, seed=2),),)),
}
STRIPES = "\n".join(("$x$_{", "层", "<b>&"))


def _plan(count: int = 0) -> Plan:
    sites = [
        Site("stem", "conv2d", 3, 8, kernel=(7, 7), reason="only 3 inputs", decision="keep"),
        Site("a.0.fc", "linear", 64, 64, fabric=Monarch(blocks=8).build(64, 64)),
        Site("a.1.fc", "linear", 64, 64, fabric=LowRank(rank=2).build(64, 64)),
        Site(STRIPES, "linear", 64, 10).kept("final head"),
    ]
    sites += [
        Site(f"b.{n}.fc", "linear", 32, 32, fabric=Monarch(blocks=4).build(32, 32))
        for n in range(count)
    ]
    return Plan(tuple(sites))


def _image(axes: Any) -> Any:
    [image] = axes.images
    return image.get_array().filled(0)


# --- one fabric ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_pictures_are_the_masks_the_paths_and_the_spectra(name: str) -> None:
    fabric = SMALL[name]
    figure = plot.fabric(fabric)
    masks = [matrix for branch in fabric.mask() for matrix in branch]
    assert len(figure.axes) == len(masks) + 2
    for axes, mask in zip(figure.axes, masks, strict=False):
        assert np.array_equal(_image(axes), mask)
        assert f"{mask.shape[1]} -> {mask.shape[0]}" in axes.get_title(loc="left")
    assert np.array_equal(_image(figure.axes[-2]), fabric.paths())
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[-1].get_lines()}
    assert set(lines) == {"orthogonal", "variance"}
    assert all(len(y) == min(fabric.in_features, fabric.out_features) for y in lines.values())
    assert "scaled" not in "".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize("name", LARGE)
def test_large_ones_are_averaged_over_equal_cells(name: str) -> None:
    fabric = LARGE[name]
    masks = [mask.astype(float) for mask in fabric.mask()[0]]
    pairs = [(mask_of(fabric, 0, n), mask) for n, mask in enumerate(masks)]
    for drawn, whole in (*pairs, (paths_of(fabric), reduce(lambda a, b: b @ a, masks))):
        assert max(drawn.values.shape) <= MOST
        assert drawn.is_scaled == (max(whole.shape) > MOST)
        for row, column in ((0, 0), (5, 3), (-1, -1)):
            rows = np.array_split(whole, range(drawn.rows, len(whole), drawn.rows))[row]
            splits = range(drawn.columns, whole.shape[1], drawn.columns)
            cell = np.array_split(rows, splits, axis=1)[column]
            assert drawn.values[row, column] == pytest.approx(cell.mean())
        assert drawn.rows * drawn.columns == pytest.approx(whole.size / drawn.values.size, rel=0.02)


def test_the_picture_says_that_it_is_scaled_down() -> None:
    figure = plot.fabric(LARGE["equal cells"])
    assert "above 512 features scaled down" in figure.texts[1].get_text()
    assert "cell = 1 x 2" in figure.axes[0].get_title(loc="left")
    assert "cell = 3 x 2" in figure.axes[-2].get_title(loc="left")


@pytest.mark.parametrize("scheme", ["orthogonal", "variance"])
@pytest.mark.parametrize("name", ["wraps and folds", "branches", "clos"])
def test_singular_values_are_those_of_the_dense_matrix(name: str, scheme: str) -> None:
    fabric = SMALL[name]
    factors = [torch.empty(stage.shape, dtype=torch.float64) for stage in fabric.stages]
    initialise(factors, fabric, scheme, gain=1.0, random=generator(0, scheme))
    truth = np.linalg.svd(dense_matrix(fabric, factors), compute_uv=False)
    found = singular_values(fabric, scheme)
    assert found is not None
    assert np.allclose(found, truth, atol=1e-12)


def test_an_orthogonal_convolution_is_flat_and_large_ones_are_left_out() -> None:
    found = singular_values(SMALL["convolution"], "orthogonal")
    assert found == pytest.approx(np.ones(16))
    large = Monarch(blocks=64).build(4096, 4096)
    assert singular_values(large, "orthogonal") is None
    [note] = plot.fabric(large).axes[-1].texts
    assert note.get_text() == "not computed above\n1024 features"


def test_of_many_branches_and_steps_the_first_are_drawn() -> None:
    steps = tuple(Stage(4, 2, 2, 1) for _ in range(20))
    figure = plot.fabric(Fabric(8, 8, (steps,) * 8))
    assert len(figure.axes) == 6 * 16 + 2
    assert "the first 6 drawn; the first 16 steps drawn" in figure.texts[1].get_text()


# --- a plan -------------------------------------------------------------------------------------


def _bars(axes: Any) -> list[float]:
    return [float(patch.get_width()) for patch in axes.patches]


def test_bars_are_the_parameters_and_the_shares() -> None:
    plan = _plan()
    amounts, shares = plot.plan(plan).axes
    pairs = [n for site in plan.sites for n in (site.dense_parameters, site.parameters)]
    assert _bars(amounts) == pairs
    assert _bars(shares) == pytest.approx([1.0, 0.25, 0.0625, 1.0])
    texts = [text.get_text() for text in amounts.texts]
    assert "a.1.fc" in texts
    assert "4,096 -> 256" in texts
    assert shares.get_lines()[0].get_xdata()[0] == 0.1


def test_families_differ_and_what_is_kept_is_grey() -> None:
    amounts = plot.plan(_plan()).axes[0]
    stem, monarch, low_rank, head = (patch.get_facecolor() for patch in amounts.patches[1::2])
    assert stem == head == matplotlib.colors.to_rgba("#9A9A9A")
    assert len({stem, monarch, low_rank}) == 3


def test_many_layers_share_bars_and_no_parameter_is_lost() -> None:
    plan = _plan(200)
    figure = plot.plan(plan)
    amounts = figure.axes[0]
    assert len(amounts.patches) == 2 * 5
    assert sum(_bars(amounts)[::2]) == sum(site.dense_parameters for site in plan.sites)
    assert sum(_bars(amounts)[1::2]) == sum(site.parameters for site in plan.sites)
    assert "b.*.fc  x200" in [text.get_text() for text in amounts.texts]
    assert "204 layers" in "".join(text.get_text() for text in figure.texts)


def test_of_many_different_layers_the_largest_are_drawn() -> None:
    sites = tuple(Site(f"layer{n}", "linear", 8 + n, 8).kept("") for n in range(90))
    figure = plot.plan(Plan(sites))
    assert _bars(figure.axes[0])[::2] == [8.0 * (8 + n) for n in range(40, 90)]
    assert "40 smaller layers are not" in "".join(text.get_text() for text in figure.texts)


def test_an_empty_plan_is_an_empty_picture() -> None:
    assert _bars(plot.plan(Plan(())).axes[0]) == []


# --- files, errors, and what must not change ----------------------------------------------------

CALLS: dict[str, Callable[[Any], Any]] = {
    "fabric": lambda path: plot.fabric(SMALL["monarch"], path),
    "plan": lambda path: plot.plan(_plan(), path),
}


@pytest.mark.parametrize("call", CALLS)
def test_files_are_pngs_and_always_the_same(call: str, tmp_path: Path) -> None:
    figure = CALLS[call](tmp_path / "a.png")
    CALLS[call](tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    height, width = pixels.shape[:2]
    assert (width, height) == pytest.approx(130 * figure.get_size_inches(), abs=1)
    assert pixels[..., :3].min() < 0.3 < 0.7 < pixels[..., :3].mean()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("call", CALLS)
def test_the_users_settings_neither_count_nor_change(
    call: str, tmp_path: Path, untouched: Any
) -> None:
    CALLS[call](tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "black", "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        with untouched():
            CALLS[call](tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_pyplot_is_not_touched_and_matplotlib_comes_late() -> None:
    code = (
        "import sys; from sparsify import plot; early = 'matplotlib' in sys.modules;"
        "from sparsify.topology import Monarch; plot.fabric(Monarch(blocks=4).build(16, 16));"
        "print(early, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    assert run_python("-W", "error", "-c", code).stdout.split() == ["False", "True", "False"]


@pytest.mark.parametrize("call", CALLS)
def test_without_matplotlib_nothing_is_written(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sparsify-fabric\[plot\]"'):
        CALLS[call](tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", CALLS)
def test_a_failed_write_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", full)
        with pytest.raises(FileError, match="No space left"):
            CALLS[call](tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"
    CALLS[call](tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"draws a Fabric; got str"):
        plot.fabric("monarch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"draws a Plan; got Fabric"):
        plot.plan(SMALL["monarch"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"written as .png; got .*a\.svg"):
        plot.plan(_plan(), tmp_path / "a.svg")
    with pytest.raises(FileError, match=r"no/a\.png"):
        plot.fabric(SMALL["monarch"], tmp_path / "no" / "a.png")


def test_any_name_can_be_drawn() -> None:
    assert plain_text(STRIPES, 40) == "$x$_{\\n\\u5c42\\n<b>&"
    assert len(plain_text("long." * 40, 30)) == 30
