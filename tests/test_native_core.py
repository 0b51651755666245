"""The native core through its C interface: against dense matrices, and with hostile arguments."""

from __future__ import annotations

import ctypes
import itertools
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from sparsify.fabric import Fabric, GraphStage, Stage
from sparsify.native import library
from sparsify.topology import TOPOLOGIES
from tests.support import native
from tests.support.fabrics import any_fabrics, dense_matrix, jacobian, random_fabrics
from tests.support.native import (
    ACTIVATIONS,
    TYPES,
    Compiled,
    Threads,
)
from tests.support.native_calls import RICH, Call, bits, placed
from tests.support.native_fuzz import BATCHES, Case, check_damaged, random_fabric
from tests.support.native_reference import activated, computed
from tests.support.paths import run_python

pytestmark = pytest.mark.skipif(library.path() is None, reason=str(library.why_not()))


@pytest.fixture(autouse=True)
def _isa() -> Iterator[None]:
    """Whatever a test chooses, the next one has the best instruction set."""
    yield
    if library.path() is not None:
        native.use_isa(native.instruction_sets()[0])


def isas() -> list[str]:
    """Instruction sets to run a test with; none where there is no library."""
    return native.instruction_sets() if library.path() is not None else []


# ------------------------------------------------------------------------------ results


@given(any_fabrics(kernels=False), st.integers(0, 2**32))
def test_the_reference_of_the_fuzz_is_right(fabric: Fabric, seed: int) -> None:
    """Outputs and gradients against matrices that are put together in another way."""
    numbers = np.random.default_rng(seed)
    description, indices = native.described(fabric)
    x, grad = (numbers.standard_normal((3, n)) for n in (fabric.in_features, fabric.out_features))
    factors = [numbers.standard_normal(stage.shape) for stage in fabric.stages]
    assert native.weight_shapes(description) == [factor.shape for factor in factors]
    tensors = [torch.from_numpy(factor) for factor in factors]
    matrix = dense_matrix(fabric, tensors)
    got = computed(description, indices, x, factors, grad)
    np.testing.assert_allclose(got.y, x @ matrix.T, atol=1e-9)
    np.testing.assert_allclose(got.grad_x, grad @ matrix, atol=1e-9)
    by_weight = (grad.T @ x).reshape(-1) @ jacobian(fabric, tensors)
    want = _by_stage(fabric, by_weight)
    for first, second in zip(got.grad_factors, want, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-9)


def _by_stage(fabric: Fabric, by_entry: native.Floats) -> list[native.Floats]:
    """Gradients in the order of the nonzero entries of each step, in the order of its weight."""
    found = []
    for stage in fabric.stages:
        entries, by_entry = np.split(by_entry, [stage.parameters])
        matrix = np.zeros((stage.out_features, stage.in_features))
        matrix[np.nonzero(stage.mask())] = entries
        if isinstance(stage, GraphStage):
            found.append(np.take_along_axis(matrix, stage.neighbours(), axis=1))
        else:
            split = matrix.reshape(stage.a, stage.b, stage.d, stage.a, stage.c, stage.d)
            found.append(np.einsum("abdacd->adbc", split))
    return found


@pytest.mark.parametrize("isa", isas())
@settings(max_examples=60)
@given(any_fabrics(kernels=False), st.integers(0, 2**32))
def test_any_fabric_is_computed_right(isa: str, fabric: Fabric, seed: int) -> None:
    Case(fabric, seed, [isa]).check()


@pytest.mark.parametrize("family", list(TOPOLOGIES))
def test_the_fabrics_of_every_family_are_computed_right(family: str) -> None:
    for number, fabric in enumerate(random_fabrics(family, 30, seed=5)):
        Case(fabric, number, isas()).check()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", TYPES)
def test_every_batch_of_a_rich_fabric(isa: str, kind: str) -> None:
    for rows in BATCHES:
        case = Case(RICH, rows, [isa])
        numbers = np.random.default_rng(rows)
        case.kind, case.rows = TYPES[kind], rows
        case.x = numbers.standard_normal((rows, RICH.in_features))
        case.grad = numbers.standard_normal((rows, RICH.out_features))
        case.check()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("rows", [1, 40])
def test_long_sums_stay_exact(isa: str, rows: int) -> None:
    """An output of 8,192 products, and an input that 8,192 outputs read."""
    native.use_isa(isa)
    for fabric in (
        Fabric(8192, 3, ((Stage(1, 3, 8192, 1),),)),
        Fabric(3, 8192, ((Stage(1, 8192, 3, 1),),)),
        Fabric(8192, 2, ((GraphStage("random", 8192, 2, 8192),),)),
    ):
        call = Call(fabric, rows)
        description, indices = native.described(fabric)
        double = [a.array.astype(np.float64) for a in (call.x, call.grad, *call.factors)]
        want = computed(description, indices, double[0], double[2:], double[1])
        for got, good in zip(
            call.everything(), [want.y, want.grad_x, *want.grad_factors], strict=True
        ):
            assert np.linalg.norm(got - good) < 1e-6 * np.linalg.norm(good)


CLOSED_FORMS = {
    "identity": lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * special.expit(x),
}


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", TYPES)
def test_activations_and_bias(isa: str, name: str, kind: str) -> None:
    """Output by output, for numbers from nothing to where exponentials overflow."""
    native.use_isa(isa)
    type_ = TYPES[kind]
    sizes = np.concatenate([[0.0], np.geomspace(1e-4, 300, 100), np.linspace(0.01, 12, 200)])
    x = type_.read(type_.store(np.concatenate([sizes, -sizes])))[:, None]
    bias = type_.read(type_.store(np.array([0.0, 0.3, -2.0])))
    fabric = Fabric(1, 3, ((Stage(1, 3, 1, 1),),))
    y = native.place((len(x), 3), type_.stored, "guarded")
    factors = [placed(np.ones((1, 1, 3, 1)), type_)]
    Compiled(*native.described(fabric)).forward(
        type_, placed(x, type_), factors, y, placed(bias, type_), ACTIVATIONS[name]
    )
    got, before = type_.read(y.array), x + bias
    want = CLOSED_FORMS[name](before)
    np.testing.assert_allclose(want, activated(name, before), rtol=1e-9, atol=1e-14)
    precision = {"float32": 1e-6, "float64": 1e-14}.get(kind, type_.most)
    assert (np.abs(got - want) <= precision * np.maximum(np.abs(before), 1e-3)).all()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 50])
def test_what_is_not_a_number_stays_so(isa: str, name: str, rows: int) -> None:
    """And touches no other row; infinity is what numpy says."""
    native.use_isa(isa)
    call = Call(Fabric(20, 20, ((Stage(20, 1, 1, 1),),)), rows)
    call.factors[0].array[...] = 1
    call.x.array[rows // 2, 3:6] = np.nan, np.inf, -np.inf
    got = call.forward(ACTIVATIONS[name])
    with np.errstate(invalid="ignore"):
        want = CLOSED_FORMS[name](call.x.array.astype(np.float64))
    assert np.isnan(got[rows // 2, 3])
    assert got[rows // 2, 4] == np.inf
    if name in ("identity", "relu"):
        assert got[rows // 2, 5] == want[rows // 2, 5]
    others = np.ones_like(got, bool)
    others[rows // 2, 3:6] = False
    assert np.isfinite(got[others]).all()


def test_rows_may_overlap() -> None:
    """Rows nearer to each other than they are wide, as in windows over a signal."""
    fabric = Fabric(20, 20, ((Stage(4, 5, 5, 1),),))
    call = Call(fabric, 40)
    signal = np.random.default_rng(0).standard_normal(20 + 39 * 3)
    apart = call.everything
    windows = np.lib.stride_tricks.sliding_window_view(signal, 20)[::3]
    call.x.array[...] = call.grad.array[...] = windows
    want = apart()
    call.x = call.grad = native.place(windows.shape, np.float32, "exact", stride=3)
    call.x.array[...] = windows
    assert bits(call.everything()) == bits(want)


def test_no_rows_have_no_gradient() -> None:
    """Gradients of weights are overwritten with nothing, also where there are no rows at all."""
    for kind in TYPES.values():
        call = Call(RICH, 0, kind)
        grad_x, *grad_factors = call.backward()
        assert grad_x.shape == (0, RICH.in_features)
        assert not any(grad.any() for grad in grad_factors)


# ------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", TYPES)
def test_threads_change_rounding_only(isa: str, kind: str) -> None:
    native.use_isa(isa)
    call = Call(RICH, 130, TYPES[kind])
    alone = call.everything()
    assert bits(call.everything(Threads(1))) == bits(alone)
    for count in (2, 3, 5, 64):
        runs = [Threads(count, "backwards"), Threads(count), Threads(count, "parallel")]
        first, *others = [call.everything(threads) for threads in runs]
        assert all(bits(other) == bits(first) for other in others), "not deterministic"
        assert all(threads.tasks for threads in runs), "the pool was never asked"
        assert max(itertools.chain(*(threads.tasks for threads in runs))) <= count
        for one, many in zip(alone, first, strict=True):
            one, many = call.kind.read(one), call.kind.read(many)
            assert np.linalg.norm(one - many) <= call.kind.most * np.linalg.norm(one)


def test_the_threads_of_openmp() -> None:
    """The pool that is told where the OpenMP runtime of GCC begins a parallel region."""
    try:
        runtime = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("no libgomp")
    call = Call(RICH, 130)
    for count in (2, 3, 7):
        threads = Threads(count)
        want = bits(call.everything(threads))
        threads.struct.parallel = ctypes.cast(native.core().sparsify_openmp, native.PARALLEL)
        threads.struct.pool = ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p)
        for _ in range(20):
            assert bits(call.everything(threads)) == want


@pytest.mark.parametrize("isa", isas())
def test_many_callers_at_once(isa: str) -> None:
    """Eight threads with batches of their own on one handle, which give the bits of one."""
    native.use_isa(isa)
    calls = [Call(RICH, rows) for rows in (1, 2, 9, 17, 33, 64, 100, 130)]
    for call in calls:
        call.handle = calls[0].handle
    alone = [bits(call.everything()) for call in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in range(20):
            at_once = list(pool.map(lambda call: bits(call.everything()), calls))
            assert at_once == alone


FORK = """
import os, random
from tests.support.native_fuzz import Case, random_fabric
case = Case(random_fabric(random.Random(1), 60), seed=3)
case.check()
child = os.fork()
case.check()
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""

UNLOAD = """
import _ctypes, random, threading
from sparsify.native import library
from tests.support import native
from tests.support.native_fuzz import Case, random_fabric
used, closed = threading.Event(), threading.Event()
def work():
    case = Case(random_fabric(random.Random(1), 60), seed=3)
    case.check()
    del case.compiled
    used.set()
    closed.wait()
thread = threading.Thread(target=work)
thread.start()
used.wait()
for opened in (library.library(), native.core()):
    _ctypes.dlclose(opened._handle)
closed.set()
thread.join()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork, no dlclose")
@pytest.mark.parametrize("program", [FORK, UNLOAD], ids=["fork", "unload"])
def test_the_process_lives_on(program: str) -> None:
    """A fork after the first use; a thread that ends after the library was closed, as hosts do."""
    run_python("-W", "ignore", "-c", program)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_many_random_fabrics(part: int) -> None:
    """500 in each part, of up to 600 features, none of which is the same as in another."""
    for number in range(500 * part, 500 * (part + 1)):
        fabric = random_fabric(random.Random(number), widest=(60, 600)[number % 2])
        Case(fabric, number, isas()).check()
        check_damaged(fabric, number)
