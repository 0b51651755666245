"""Lesson 8: does it learn? Fabrics, dense models and their rivals, trained side by side.

Every comparison has the twin that a user would otherwise pick, a thinner dense model with as many
weights, and gives every arm the learning rate that suits it best on data held back for that. What
is trained already is not trained again: results lie in FOLDER/NAME.jsonl, one line each, and files
of several machines may simply be joined.

Run it:  python examples/08_does_it_learn.py [NAMES] [--quick] [--out FOLDER] [--jobs 2] [--report]
         (names: see --help; all of them take many hours on two cores, --quick 25 minutes: small
         and short, for a look; --report trains nothing and draws what is there; what we trained
         lies in examples/results)
Needs:   pip install "sparsify-fabric[dev]"  (scikit-learn, matplotlib, joblib)
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType

from benchmarks import BENCHMARKS

import sparsify as sp


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does it learn?")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small and short, for a look")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of results")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, a thread each")
    parser.add_argument("--engine", default="joblib", help="joblib or ray")
    parser.add_argument("--report", action="store_true", help="train nothing, only report")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {[*BENCHMARKS]}")
    return options


def train(module: ModuleType, path: Path, options: argparse.Namespace) -> None:
    """Until the benchmark wants no more: which rates and seeds, it decides by what came before."""
    failed: list[dict[str, object]] = []
    while True:
        found = sp.read_trials(path) if path.exists() else []
        done = [trial.point for trial in found if trial.result is not None]
        wanted = module.points(found, options.quick)
        missing = [point for point in wanted if point not in done and point not in failed]
        if not missing:
            return
        trials = sp.sweep(module.run, missing, path, jobs=options.jobs, engine=options.engine)
        failed += [trial.point for trial in trials if trial.result is None]


def report(name: str, module: ModuleType, path: Path) -> None:
    if not path.exists():
        print(f"{path} is not there: train {name} first, or give its folder as --out")
        return
    found = [trial for trial in sp.read_trials(path) if trial.result is not None]
    if not found:
        print(f"{path} holds no result: train {name} first")
        return
    text = module.table(found)
    print(f"\n## {name}\n\n{text}\n", flush=True)
    path.with_suffix(".md").write_text(text + "\n", "utf-8")
    module.figure(found, path.with_suffix(".png"))


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # a line for each training
    for name in options.names or BENCHMARKS:
        module = importlib.import_module(BENCHMARKS[name])
        path = options.out / f"{name}.jsonl"
        if not options.report:
            options.out.mkdir(parents=True, exist_ok=True)
            train(module, path, options)
        report(name, module, path)


if __name__ == "__main__":
    try:
        main()
    except (sp.SparsifyError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
