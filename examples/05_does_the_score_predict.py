"""Lesson 5: does a number that needs no data foretell which fabric will train best?

`sp.sparsify` picks fabrics by a score, before it has seen any data. Here some two dozen fabrics of
equal size, of every family, stand in for the layers of small networks that learn four tasks at
several budgets. Each is trained with `sp.param_groups` at the best of three base rates, several
seeds each. Then every score is held against the test losses.

So that we do not fool ourselves, the groups of fabrics were split beforehand: the formula of the
default score was chosen on some of them only, and the held-out ones were looked at once.

Run it:  python examples/05_does_the_score_predict.py [--quick] [--out FOLDER] [--report]
         (50 minutes on one core; with --out, what is trained already is not trained again.
         --quick: one small group in seconds; --report: only tables and picture)
Needs:   pip install "sparsify-fabric[dev]"  (scipy, scikit-learn, matplotlib)
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from score_study.report import picture, results, tables
from score_study.study import GROUPS, Group, run
from score_study.tasks import TASKS
from score_study.train import one_by_one, side_by_side

from sparsify.fabric import Fabric

QUICK = (Group("digits", 64, 384, held_out=False),)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does the score predict training?")
    parser.add_argument("--out", type=Path, help="folder of results; a temporary one by default")
    parser.add_argument("--quick", action="store_true", help="one group, few steps, two seeds")
    parser.add_argument("--report", action="store_true", help="train nothing, only report")
    return parser.parse_args()


def make_quick() -> None:
    """Less of everything: for a look, not for conclusions."""
    TASKS["digits"] = dataclasses.replace(TASKS["digits"], steps=60, seeds=(0, 1), rates=(0.01,))


def check() -> None:
    """Networks trained in bulk end where the layers and optimisers that users have end."""
    import sparsify as sp

    task = dataclasses.replace(TASKS["digits"], steps=30, seeds=(0, 1))
    fabric: Fabric = sp.fabric("monarch", 64, 64, blocks=8)
    nets = [task.build(fabric, fabric, seed) for seed in task.seeds]
    bulk = side_by_side(task, nets, 64)[0][1]
    single = one_by_one(task, nets[1], 64, 1, task.rates[0])
    print(f"Trained in bulk: loss {bulk:.6f}; one by one, with sp's layers: {single:.6f}\n")


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if options.quick:
        make_quick()
    groups = QUICK if options.quick else GROUPS
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not options.report:
            check()
            run(folder / "results.jsonl", groups)
        found = results(folder / "results.jsonl", groups)
        text = tables(found)
        print(f"\n{text}")
        if options.out:
            (folder / "report.md").write_text(text + "\n")
            picture(found, folder / "scores.png")


if __name__ == "__main__":
    main()
