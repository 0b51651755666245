"""Threads of the native kernel: those of torch, callers of several threads, forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from sparsify.fabric import Fabric, Stage
from sparsify.native.library import Threads
from sparsify.nn import FabricLinear
from sparsify.ops import fabric_linear
from sparsify.ops.kernels import compiled, threads
from tests.support.fabrics import random_factors
from tests.support.kernels import needs_library
from tests.support.paths import ROOT

pytestmark = needs_library

LARGE = Fabric(512, 512, ((Stage(16, 32, 32, 1), Stage(1, 32, 32, 16)),))


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_as_many_threads_as_torch_has(two_threads: None) -> None:
    if threads._openmp() is None:
        pytest.skip("torch has no OpenMP runtime here")
    for count in (2, 3):
        torch.set_num_threads(count)
        address = threads.threads()
        assert address is not None
        assert Threads.from_address(address).threads == count
    torch.set_num_threads(1)
    assert threads.threads() is None


def test_without_a_runtime_one_thread(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    threads._of.cache_clear()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    assert threads.threads() is None
    threads._of.cache_clear()


def test_torch_on_linux_has_a_runtime() -> None:
    if sys.platform != "linux" or not torch.backends.openmp.is_available():
        pytest.skip("only there is it certain")
    assert threads._openmp()


def test_only_large_calls_ask_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(compiled, "threads", lambda: asked.append(None))
    enough = compiled.THREADED_FLOPS // LARGE.flops()
    factors = [factor.float() for factor in random_factors(LARGE)]
    for rows, calls in ((1, 0), (enough - 1, 0), (enough, 1), (2 * enough, 2)):
        fabric_linear(data(rows, 512), factors, LARGE)
        assert len(asked) == calls


@pytest.mark.parametrize("count", [1, 2])
def test_same_bits_twice_and_from_eight_callers(count: int, two_threads: None) -> None:
    torch.set_num_threads(count)
    layer = FabricLinear(LARGE)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    grad = data(300, 512, seed=1)

    def call(_: int = 0) -> list[Tensor]:
        torch.set_num_threads(count)  # of this thread
        x = data(300, 512).requires_grad_()
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], grad)]

    expected = call()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, range(32)))
    for results in (call(), *found):
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    torch.set_num_threads(1)
    for one, other in zip(call(), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-3)


FORK = """
import os, sys
import torch
from sparsify.fabric import Fabric, Stage
from sparsify.ops import fabric_linear
from sparsify.ops.kernels import threads

torch.set_num_threads(2)
fabric = Fabric(512, 512, ((Stage(16, 32, 32, 1), Stage(1, 32, 32, 16)),))
factors = [torch.randn(stage.shape, requires_grad=True) for stage in fabric.stages]
x, grad = torch.randn(2, 512, 512)

def call():  # nothing but our own kernel: torch's would hang
    y = fabric_linear(x, factors, fabric)
    return [tensor.detach().numpy() for tensor in (y, *torch.autograd.grad(y, factors, grad))]

expected = call()
child = os.fork()
if child == 0:
    found = call()
    same = all(abs(a - b).max() < 1e-2 for a, b in zip(found, expected))
    os._exit(0 if same and threads.threads() is None else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_computes_on() -> None:
    """The pool of the parent is not there: whoever waited for it would wait forever."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FORK], timeout=60, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 0
