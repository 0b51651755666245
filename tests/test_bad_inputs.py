"""Bad input, through API and command line: the class, the message, the exit code; no file left."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsify as sp
from sparsify.cli import main
from tests.support import factories
from tests.support.purity import untouched

HOME = "tests.support.factories"
MLP = f"{HOME}:mlp"
X = (torch.ones(2, 64),)
HUGE = ("--in", "99999", "--out", "99999")


class Place:
    """A folder with good and bad files, and a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.inputs = factories.mlp()
        self.sparse = sp.sparsify(self.model, self.inputs)
        self.wider, self.head = factories.wider(), factories.only_a_head()

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def saved(self) -> str:
        sp.save(self.sparse, self / "good.safetensors")
        return self / "good.safetensors"

    def plan(self) -> str:
        return self.file("plan.json", sp.plan(self.model).to_json())

    def config_folder(self, **config: Any) -> str:
        (self.folder / "hf").mkdir()
        (self.folder / "hf" / "config.json").write_text(json.dumps(config))
        return self / "hf"


def bench(*arguments: str) -> Callable[[Place], list[str]]:
    return lambda _: ["bench", *arguments]


def layer(*arguments: str) -> Callable[[Place], list[str]]:
    return bench("--in", "64", "--out", "64", *arguments)


def sparsify(**options: Any) -> Callable[[Place], Any]:
    return lambda place: sp.sparsify(place.model, **options)


def cut(place: Place) -> str:
    whole = Path(place.saved()).read_bytes()
    return place.file("cut.safetensors", whole[: len(whole) // 2])


def flipped(place: Place) -> str:
    whole = bytearray(Path(place.saved()).read_bytes())
    whole[-5] ^= 1
    return place.file("flipped.safetensors", bytes(whole))


def pickled(place: Place) -> str:
    torch.save(place.model.state_dict(), place / "m.pt")
    return place / "m.pt"


def whole_module(place: Place) -> str:
    torch.save(place.model, place / "whole.pt")
    return place / "whole.pt"


def budget(value: Any, message: str = "must be a share above 0") -> tuple[Any, ...]:
    return sparsify(budget=value), sp.ConfigError, message


API: dict[str, tuple[Callable[[Place], Any], type[sp.SparsifyError], str]] = {
    "budget 0": budget(0),
    "budget below 0": budget(-0.1),
    "budget above 1": budget(1.5),
    "budget NaN": budget(math.nan),
    "budget infinite": budget(math.inf),
    "budget True": budget(True),
    "budget text": budget("a tenth"),
    "budget None": budget(None),
    "budget of nothing": (lambda _: sp.Budget(), sp.ConfigError, "needs parameters="),
    "budget of too many FLOPs": (lambda _: sp.Budget(flops=2), sp.ConfigError, "budget flops"),
    "budget no fabric meets": (sparsify(budget=1e-6), sp.BudgetError, "Raise the budget"),
    "fabric no budget meets": (
        lambda _: sp.fabric("monarch", 64, 64, budget=1e-5),
        sp.BudgetError,
        "Raise the budget",
    ),
    "topology": (sparsify(topology="monarc"), sp.ConfigError, "Did you mean 'monarch'"),
    "topology of a fabric": (
        lambda _: sp.fabric("close", 8, 8, budget=0.5),
        sp.ConfigError,
        "Did you mean 'clos'",
    ),
    "option of a fabric": (
        lambda _: sp.fabric("monarch", 8, 8, block=2),
        sp.ConfigError,
        "Did you mean 'block",
    ),
    "no option of a fabric": (lambda _: sp.fabric("low_rank", 8, 8), sp.ConfigError, "rank="),
    "option out of range": (
        lambda _: sp.fabric("block_diagonal", 8, 8, blocks=9),
        sp.ConfigError,
        "from 1 to 8",
    ),
    "option of another type": (
        lambda _: sp.fabric("low_rank", 8, 8, rank=2.5),
        sp.ConfigError,
        "whole number",
    ),
    "sizes of a fabric": (
        lambda _: sp.fabric("monarch", 0, 8, budget=0.5),
        sp.ConfigError,
        "in_features must be a whole number of 1 or more",
    ),
    "radices that do not multiply": (
        lambda _: sp.fabric("butterfly", 64, 64, radices=(4, 5)),
        sp.ConfigError,
        "(4, 5) multiply to 20",
    ),
    "degree of more than all": (
        lambda _: sp.fabric("random_regular", 8, 8, degree=9),
        sp.ConfigError,
        "degree must be a whole number from 1 to 8",
    ),
    "degree that leaves inputs unread": (
        lambda _: sp.fabric("expander", 64, 16, degree=2),
        sp.ConfigError,
        "got 2",
    ),
    "sizes without a Cayley graph": (
        lambda _: sp.fabric("expander", 60, 60, degree=4, kind="cayley"),
        sp.ConfigError,
        "60",
    ),
    "grid of other sizes": (
        lambda _: sp.fabric("torus", 64, 64, dims=(8, 9)),
        sp.ConfigError,
        "72",
    ),
    "kind of an expander": (
        lambda _: sp.fabric("expander", 64, 64, degree=4, kind="ramanjan"),
        sp.ConfigError,
        "Did you mean 'ramanujan'",
    ),
    "a class that is no topology": (
        sparsify(topology=dict),
        sp.ConfigError,
        "must be a subclass of sparsify.topology.Topology",
    ),
    "score": (sparsify(score="isometri"), sp.ConfigError, "Did you mean 'isometry'"),
    "score and plan": (
        lambda p: sp.sparsify(p.model, plan=sp.plan(p.model), score="isometry"),
        sp.ConfigError,
        "score= cannot go with it",
    ),
    "seconds without inputs": (
        lambda p: sp.plan(p.model, budget=sp.Budget(latency_s=1)),
        sp.ConfigError,
        "give example_inputs",
    ),
    "seconds below 0": (lambda _: sp.Budget(latency_s=-1), sp.ConfigError, "seconds above 0"),
    "seconds of a fabric alone": (
        lambda _: sp.fabric("auto", 64, 64, budget=sp.Budget(latency_s=1.0)),
        sp.ConfigError,
        "goes with a model",
    ),
    "score of a text": (lambda _: sp.score("monarch"), sp.ConfigError, "got str"),  # type: ignore[arg-type]
    "speed-up of 0": (sparsify(min_speedup=0), sp.ConfigError, "min_speedup must be"),
    "both forms of a fabric": (
        lambda _: sp.fabric("low_rank", 8, 8, rank=2, budget=0.5),
        sp.ConfigError,
        "not both",
    ),
    "init": (sparsify(init="ortogonal"), sp.ConfigError, "Did you mean 'orthogonal'"),
    "kernel": (
        lambda _: sp.ops.use_kernel("refrence").__enter__(),
        sp.ConfigError,
        "Did you mean 'reference'",
    ),
    "include": (sparsify(include=["encoder.*"]), sp.ConfigError, "takes no dense layer"),
    "include is one text": (sparsify(include="0"), sp.ConfigError, "must be a list"),
    "exclude": (sparsify(exclude=["00"]), sp.ConfigError, "takes no dense layer"),
    "exclude a class": (sparsify(exclude=[nn.Conv2d]), sp.ConfigError, "Conv2d"),
    "regular expression": (sparsify(include=["re:("]), sp.ConfigError, "no regular expression"),
    "pattern of another type": (sparsify(include=[3]), sp.ConfigError, "A pattern is"),
    "pattern of one name": (sparsify(include=[lambda name: True]), sp.ConfigError, "A pattern is"),
    "a module as pattern": (sparsify(include=[nn.ReLU()]), sp.ConfigError, "A pattern is"),
    "everything excluded": (sparsify(exclude=["*"]), sp.NothingToDoError, "Nothing to replace"),
    "rule that takes nothing": (
        sparsify(rules=[sp.Rule("fc1", topology="monarch")]),
        sp.ConfigError,
        "takes no dense layer",
    ),
    "rule with an unknown topology": (
        sparsify(rules=[sp.Rule("0", topology="buterfly")]),
        sp.ConfigError,
        "Did you mean 'butterfly'",
    ),
    "rule that contradicts itself": (
        lambda _: sp.Rule("0", topology="monarch", keep=True),
        sp.ConfigError,
        "takes no topology",
    ),
    "no module": (lambda _: sp.sparsify("m.pt"), sp.ModelError, "torch.nn.Module"),
    "no dense layer": (
        lambda _: sp.sparsify(factories.without_dense()),
        sp.NothingToDoError,
        "no dense Linear or Conv",
    ),
    "only a head": (
        lambda place: sp.sparsify(place.head),
        sp.NothingToDoError,
        "All dense layers are kept",
    ),
    "inputs of the wrong size": (
        lambda place: sp.sparsify(place.model, (torch.ones(2, 65),)),
        sp.ModelError,
        "does not run on the example inputs",
    ),
    "inputs of the wrong type": (
        lambda place: sp.sparsify(place.model, 3),
        sp.ConfigError,
        "example_inputs must be",
    ),
    "plan of another model": (
        lambda place: sp.sparsify(place.model, plan=sp.plan(place.wider)),
        sp.ConfigError,
        "of another model",
    ),
    "plan and budget": (
        lambda place: sp.sparsify(place.model, plan=sp.plan(place.model), budget=0.5),
        sp.ConfigError,
        "decided already",
    ),
    "plan cut": (
        lambda place: sp.Plan.from_json(sp.plan(place.model).to_json()[:100]),
        sp.ConfigError,
        "Not the JSON of a plan",
    ),
    "plan of a later schema": (
        lambda _: sp.Plan.from_json('{"schema": 99}'),
        sp.ConfigError,
        "schema 99",
    ),
    "load what is missing": (
        lambda place: sp.load(place / "none.safetensors", place.model),
        sp.FileError,
        "Cannot read",
    ),
    "load without a model": (
        lambda place: sp.load(place.saved(), None),  # type: ignore[arg-type]
        sp.ConfigError,
        "dense model that was converted",
    ),
    "load into another model": (
        lambda place: sp.load(place.saved(), place.wider),
        sp.ModelError,
        "'0'",
    ),
    "load what is cut": (
        lambda place: sp.load(cut(place), place.model),
        sp.ModelError,
        "truncated",
    ),
    "load what is damaged": (
        lambda place: sp.load(flipped(place), place.model),
        sp.ModelError,
        "sha256",
    ),
    "load a pickle": (lambda place: sp.load(pickled(place), place.model), sp.ModelError, "pickle"),
    "save into a folder": (
        lambda p: sp.save(p.sparse, p.folder),
        sp.ModelError,
        "without a config",
    ),
    "save below nothing": (
        lambda place: sp.save(place.sparse, place / "no/m.safetensors"),
        sp.FileError,
        "Cannot write",
    ),
    "save below a file": (
        lambda place: sp.save(place.sparse, place.file("a", "") + "/m.safetensors"),
        sp.FileError,
        "Cannot write",
    ),
    "save where nobody may": (
        lambda place: sp.save(place.sparse, "/proc/m.safetensors"),
        sp.FileError,
        "Cannot write",
    ),
    "save onto what exists": (
        lambda place: sp.save(place.sparse, place.file("a.safetensors", ""), overwrite=False),
        sp.FileError,
        "exists already",
    ),
    "export without inputs": (
        lambda place: sp.export_onnx(place.sparse, place / "m.onnx", None),  # type: ignore[arg-type]
        sp.ConfigError,
        "example_inputs must be",
    ),
    "export with wrong inputs": (
        lambda place: sp.export_onnx(place.sparse, place / "m.onnx", (torch.ones(2, 3),)),
        sp.ConfigError,
        "cannot run",
    ),
    "export with an unknown opset": (
        lambda place: sp.export_onnx(place.sparse, place / "m.onnx", X, opset=3),
        sp.ConfigError,
        "opset must be",
    ),
    "export below nothing": (
        lambda place: sp.export_onnx(place.sparse, place / "no/m.onnx", X),
        sp.FileError,
        "Cannot write",
    ),
    "session of what is missing": (
        lambda place: sp.onnx.session(place / "m.onnx"),
        sp.FileError,
        "no file",
    ),
    "session of a text": (
        lambda place: sp.onnx.session(place.file("m.onnx", "text")),
        sp.ModelError,
        "cannot load",
    ),
}


def plan(*options: str) -> Callable[[Place], list[str]]:
    return lambda _: ["plan", MLP, *options]


def convert(source: str = MLP, *options: str) -> Callable[[Place], list[str]]:
    return lambda place: ["convert", source, "-o", place / "out.safetensors", *options]


def weights(make: Callable[[Place], str], *options: str) -> Callable[[Place], list[str]]:
    return lambda place: convert(MLP, "--weights", make(place), *options)(place)


CLI: dict[str, tuple[Callable[[Place], list[str]], int, str]] = {
    "no verb": (lambda _: [], 2, "VERB"),
    "verb": (lambda _: ["conver"], 2, "Did you mean 'convert'"),
    "option": (plan("--budgt", "0.1"), 2, "Did you mean '--budget'"),
    "no output": (lambda _: ["convert", MLP], 2, "needs -o"),
    "format": (plan("--format", "xml"), 2, "xml"),
    "seed": (plan("--seed", "one"), 2, "one"),
    "budget text": (plan("--budget", "a tenth"), 2, "got 'a tenth'"),
    "budget 0": (plan("--budget", "0"), 2, "share above 0"),
    "budget NaN": (plan("--budget", "nan"), 2, "share above 0"),
    "budget above 1": (plan("--budget", "1.01"), 2, "share above 0"),
    "budget below 0": (plan("--budget=-1"), 2, "share above 0"),
    "budget name": (plan("--budget", "flop=0.5"), 2, "Did you mean 'flops'"),
    "budget no fabric meets": (plan("--budget", "1e-7"), 3, "Raise the budget"),
    "topology": (plan("--topology", "monarc"), 2, "Did you mean 'monarch'"),
    "include": (plan("--include", "encoder.*"), 2, "takes no dense layer"),
    "rule without a family": (plan("--rule", "0"), 2, "A rule is pattern=family"),
    "rule with a bad option": (plan("--rule", "0=monarch:blocks"), 2, "option=value"),
    "rule with an unknown option": (plan("--rule", "0=monarch:bloks=2"), 2, "Did you mean 'blocks"),
    "rule with code": (plan("--rule", "0=monarch:blocks=open('x')"), 2, "option=value"),
    "init": (convert(MLP, "--init", "ortogonal"), 2, "Did you mean 'orthogonal'"),
    "input of another form": (plan("--input", "x"), 2, "An input is name:dtype[sizes]"),
    "input type": (plan("--input", "x:f31[2]"), 2, "Did you mean 'f"),
    "input size": (plan("--input", "x:f32[2,-1]"), 2, "a whole number or a label"),
    "inputs half named": (plan("--input", "x:f32[2]", "--input", "f32[2]"), 2, "name of its own"),
    "inputs that do not run": (plan("--input", "f32[2,65]"), 4, "does not run"),
    "huge input": (plan("--input", "f32[99999,99999,99999]"), 2, "smaller sizes"),
    "module": (convert("no_such_module:make"), 2, "no module 'no_such_module'"),
    "factory": (convert(f"{HOME}:mpl"), 2, "Did you mean 'mlp'"),
    "factory is a number": (convert(f"{HOME}:NOT_CALLABLE"), 2, "must be a function"),
    "factory raises": (convert(f"{HOME}:raising"), 4, "on another machine"),
    "factory wants more": (convert(f"{HOME}:needs_an_argument"), 4, "TypeError"),
    "factory gives no model": (convert(f"{HOME}:no_model"), 4, "must return a torch.nn.Module"),
    "factory without dense": (convert(f"{HOME}:without_dense"), 3, "no dense Linear or Conv"),
    "factory with wrong inputs": (convert(f"{HOME}:wrong_inputs"), 4, "does not run"),
    "module that cannot be imported": (
        lambda place: convert("tests.support.broken_module:make")(place),
        4,
        "broken on purpose",
    ),
    "no source at all": (convert("mlp"), 2, "package.module:factory"),
    "source is missing": (convert("models/bert"), 6, "does not exist"),
    "source is a checkpoint": (convert("m.pt"), 4, "cannot be read yet"),
    "source is a missing .pt2": (convert("m.pt2"), 6, "Cannot read m.pt2"),
    "source is weights": (convert("m.safetensors"), 4, "holds weights, not code"),
    "folder without config": (lambda p: convert(str(p.folder))(p), 4, "has no config.json"),
    "config is damaged": (
        lambda place: convert(str(Path(place.config_folder()).parent / "hf"))(place),
        4,
        "config.json",
    ),
    "config of an unknown kind": (
        lambda place: convert(place.config_folder(model_type="nonesuch"))(place),
        4,
        "nonesuch",
    ),
    "config without a class": (
        lambda place: convert(place.config_folder(model_type="bert"))(place),
        4,
        "architectures",
    ),
    "config of an unknown class": (
        lambda p: convert(p.config_folder(model_type="bert", architectures=["BertModul"]))(p),
        4,
        "Did you mean 'BertModel",
    ),
    "weights are missing": (weights(lambda place: place / "none.safetensors"), 6, "Cannot read"),
    "weights are cut": (weights(cut), 4, "truncated"),
    "weights are damaged": (weights(flipped), 4, "sha256"),
    "weights are a pickle": (weights(pickled), 4, "--trust-pickle"),
    "weights are a module": (weights(whole_module, "--trust-pickle"), 4, "more than tensors"),
    "weights are text": (
        weights(lambda place: place.file("m.pt", "text"), "--trust-pickle"),
        4,
        "damaged",
    ),
    "plan is missing": (convert(MLP, "--plan", "none.json"), 6, "Cannot read"),
    "plan is cut": (
        lambda place: convert(MLP, "--plan", place.file("p.json", '{"schema": 1,'))(place),
        2,
        "Not the JSON of a plan",
    ),
    "plan of another model": (
        lambda place: convert(f"{HOME}:wider", "--plan", place.plan())(place),
        2,
        "of another model",
    ),
    "plan and budget": (
        lambda place: convert(MLP, "--plan", place.plan(), "--budget", "0.5")(place),
        2,
        "decided already",
    ),
    "config is missing": (plan("--config", "none.toml"), 6, "Cannot read"),
    "config is no TOML": (
        lambda place: ["plan", MLP, "--config", place.file("r.toml", "= =")],
        2,
        "cannot be read",
    ),
    "config key": (
        lambda place: ["plan", MLP, "--config", place.file("r.toml", "budgt = 0.1")],
        2,
        "Did you mean 'budget'",
    ),
    "config value": (
        lambda place: ["plan", MLP, "--config", place.file("r.toml", "[budget]\na = 1")],
        2,
        "a value or a list",
    ),
    "output is a folder": (lambda p: ["convert", MLP, "-o", str(p.folder)], 6, "is a folder"),
    "output below nothing": (
        lambda place: ["convert", MLP, "-o", place / "no/m.safetensors"],
        6,
        "does not exist",
    ),
    "output below a file": (
        lambda place: ["convert", MLP, "-o", place.file("a", "") + "/m.safetensors"],
        6,
        "does not exist",
    ),
    "output where nobody may": (
        lambda _: ["convert", MLP, "-o", "/proc/m.safetensors"],
        6,
        "Cannot write",
    ),
    "output is a device": (lambda _: ["convert", MLP, "-o", "/dev/null"], 6, "no regular file"),
    "output exists": (
        lambda place: ["convert", MLP, "-o", place.file("m.safetensors", "")],
        6,
        "pass --force",
    ),
    "output is the weights": (
        lambda place: ["convert", MLP, "--weights", place.saved(), "-o", place.saved(), "--force"],
        6,
        "is an input of this command",
    ),
    "output is the source": (
        lambda p: ["convert", p.config_folder(), "-o", p / "hf/../hf", "--force"],
        6,
        "is an input of this command",
    ),
    "output of an unknown kind": (
        lambda place: ["export", MLP, "-o", place / "m.onx"],
        2,
        "Did you mean '.onnx'",
    ),
    "export without inputs": (
        lambda place: ["export", f"{HOME}:without_inputs", "-o", place / "m.onnx"],
        2,
        "--input",
    ),
    "verify what is missing": (lambda p: ["verify", p / "m.onnx", MLP], 6, "no file"),
    "verify a text": (lambda p: ["verify", p.file("m.onnx", "text"), MLP], 4, "cannot load"),
    "inspect what is missing": (lambda place: ["inspect", place / "m.onnx"], 6, "no file"),
    "inspect a text": (lambda p: ["inspect", p.file("m.onnx", "text")], 4, "no ONNX file"),
    "inspect a pickle": (lambda place: ["inspect", pickled(place)], 4, "pickle"),
    "inspect what is damaged": (lambda place: ["inspect", flipped(place)], 4, "sha256"),
    "inspect a bad plan": (lambda p: ["inspect", p.file("p.json", "{}")], 4, "no plan"),
    "half a size": (lambda _: ["list", "--in", "8"], 2, "go together"),
    "seconds of no model": (
        lambda _: ["list", "--in", "8", "--out", "8", "--budget", "latency_s=1"],
        2,
        "goes with a model",
    ),
    "no size": (lambda _: ["list", "--in", "0", "--out", "8"], 2, "1 or more"),
    "score of a plan": (plan("--score", "isometri"), 2, "Did you mean 'isometry'"),
    "budget of another name": (plan("--budget", "seconds=1"), 2, "got 'seconds'"),
    "speed-up as text": (plan("--min-speedup", "fast"), 2, "min-speedup"),
    "report where nobody may": (plan("--report", "no/such/page.html"), 6, "does not exist"),
    "bench of nothing": (lambda _: ["bench"], 2, "--calibrate"),
    "bench of a model and a layer": (bench(MLP, "--in", "8"), 2, "--in cannot go with it"),
    "bench of a model and a suite": (bench(MLP, "--suite", "readme"), 2, "--suite cannot"),
    "bench of half a size": (bench("--in", "8"), 2, "--in and --out"),
    "bench of a family without a size": (bench("--fabric", "clos"), 2, "--in and --out"),
    "bench of an unknown family": (layer("--fabric", "monarc"), 2, "Did you mean 'monarch'"),
    "bench of a call": (layer("--fabric", "monarch(4)"), 2, "A fabric is a family"),
    "bench of wrong options": (layer("--fabric", "monarch:blocks=x"), 2, "blocks"),
    "bench of options that are no text": (layer("--fabric", "monarch:4"), 2, "options of a fabric"),
    "bench of options and a budget": (
        layer("--fabric", "monarch:blocks=4", "--budget", "0.1"),
        2,
        "--budget cannot go with it",
    ),
    "bench of a layer with rules": (layer("--rule", "a=clos"), 2, "--rule cannot go with it"),
    "bench of a layer by a plan": (layer("--plan", "p.json"), 2, "--plan cannot go with it"),
    "bench of a layer with inputs": (layer("--input", "x:f32[2]"), 2, "--input cannot go"),
    "bench of an unknown suite": (bench("--suite", "readm"), 2, "Did you mean 'readme'"),
    "bench of a suite with a size": (bench("--suite", "readme", "--in", "8"), 2, "--in cannot"),
    "bench of a budget too small": (layer("--budget", "0.0001"), 3, "Raise the budget"),
    "bench of a huge layer": (bench("--fabric", "monarch:blocks=99", *HUGE), 2, "a smaller one"),
    "bench of no width": (bench("--in", "0", "--out", "8"), 2, "1 or more"),
    "bench of a huge batch": (layer("--batch", "999999999"), 2, "give a smaller one"),
    "bench of no rows": (layer("--batch", "0"), 2, "batch must be a whole number of 1 or more"),
    "bench of half a row": (layer("--batch", "1.5"), 2, "--batch"),
    "bench on no thread": (layer("--threads", "0"), 2, "threads must be a whole number of 1"),
    "bench of no time": (layer("--seconds", "nan"), 2, "seconds must be 0 or more"),
    "bench in an unknown mode": (layer("--mode", "wam"), 2, "Did you mean 'warm'"),
    "bench of unknown passes": (layer("--passes", "backward"), 2, "forward, training, step"),
    "bench in an unknown runtime": (layer("--runtime", "onnx"), 2, "Did you mean 'onnxruntime'"),
    "bench of unknown numbers": (layer("--dtype", "int8"), 2, "float32, bfloat16"),
    "bench of an unknown kernel": (layer("--kernel", "cuda"), 2, "no kernel 'cuda'"),
    "bench of what cannot be run": (
        layer("--dtype", "bfloat16", "--runtime", "onnxruntime"),
        2,
        "nothing to measure",
    ),
    "bench without inputs": (bench(f"{HOME}:without_inputs"), 2, "bench has to run the model"),
    "bench of wrong inputs": (bench(f"{HOME}:wrong_inputs"), 4, "does not run"),
    "bench of a head": (bench(f"{HOME}:only_a_head", "--input", "input:f32[2,64]"), 3, "replace"),
    "bench of fabrics": (
        lambda place: ["bench", MLP, "--weights", place.saved()],
        2,
        "give the dense model",
    ),
    "bench by a plan and a budget": (
        lambda place: ["bench", MLP, "--plan", place.plan(), "--budget", "0.1"],
        2,
        "--budget cannot go with it",
    ),
    "calibration of a model": (bench(MLP, "--calibrate"), 2, "measures the machine"),
    "calibration of a layer": (layer("--calibrate"), 2, "--in cannot go with it"),
    "log file below nothing": (plan("--log-file", "no/such/log"), 6, "Cannot write"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def _files(place: Place) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(place.folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", API)
def test_api(place: Place, case: str) -> None:
    call, kind, message = API[case]
    with untouched(place.model), pytest.raises(kind) as error:
        call(place)
    assert message in str(error.value)
    assert type(error.value) is kind
    assert len(str(error.value)) > 20
    assert not (place.folder / "m.onnx").exists() or "session" in case
    assert not list(place.folder.rglob("*.tmp"))


@pytest.mark.parametrize("case", CLI)
def test_cli(place: Place, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, message = CLI[case]
    line = arguments(place)
    before = _files(place)
    assert main(line) == code
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("sparsify: error: ")
    assert "Traceback" not in err
    assert out == ""
    assert _files(place) == before


def test_a_missing_extra_names_its_line(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = place.config_folder(model_type="bert", architectures=["BertModel"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["plan", folder]) == 2
    assert 'pip install "sparsify-fabric[hf]"' in capsys.readouterr().err


def test_there_are_enough_cases() -> None:
    assert len(API) + len(CLI) >= 120
