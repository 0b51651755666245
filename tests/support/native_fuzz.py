"""Random calls of the native core against dense float64 matrices, without torch.

`python -m tests.support.native_fuzz --help` says how to run it by hand; it is also the process that
the sanitizers watch.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage, Step
from tests.support import native
from tests.support.native import ACTIVATIONS, PLACES, TYPES, Compiled, CoreError, Placed, Threads
from tests.support.native_reference import Results, activated, computed, error, typical

BATCHES = (0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100)


# ------------------------------------------------------------------------------ fabrics


def random_fabric(rng: random.Random, widest: int) -> Fabric:
    """Any fabric: branches of stages, graphs and shuffles anywhere, whose ends wrap or fold."""
    inputs, outputs = _width(rng, widest), _width(rng, widest)
    branches = (_branch(rng, inputs, outputs, widest) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    return Fabric(inputs, outputs, tuple(branches))


def _width(rng: random.Random, widest: int) -> int:
    """Numbers of many divisors, powers of two with their neighbours, and whatever else."""
    round_number = 1
    while round_number * 2 <= widest and rng.random() < 0.9:
        round_number *= rng.choice([n for n in (2, 2, 3, 4, 5, 8) if round_number * n <= widest])
    near = max(1, 2 ** rng.randint(0, widest.bit_length() - 1) + rng.randint(-1, 1))
    return rng.choice((round_number, round_number, near, rng.randint(1, widest)))


def _branch(rng: random.Random, inputs: int, outputs: int, widest: int) -> tuple[Step, ...]:
    first, last = (
        rng.choice((size, size, rng.randint(size, 2 * size - 1))) for size in (inputs, outputs)
    )
    steps: list[Step] = [*_shuffle(rng, first)]
    width = first
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        steps += rng.choice((_stage, _stage, _graph, _cascade))(rng, width, 2 * widest)
        width = steps[-1].out_features if steps else first
        steps += _shuffle(rng, width)
    common = rng.choice([n for n in _divisors(width) if last % n == 0])
    if rng.random() < 0.25:
        degree = width // common
        steps.append(GraphStage("random", width, last, degree, seed=rng.randint(0, 99)))
    else:
        inner = rng.choice(_divisors(common))
        steps.append(Stage(common // inner, last // common, width // common, inner))
    return (*steps, *_shuffle(rng, last))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _shuffle(rng: random.Random, width: int) -> list[Step]:
    kind = rng.choice(("none", "none", "stride", "seed"))
    if kind == "stride":
        return [Shuffle(width, stride=rng.choice(_divisors(width)))]
    return [Shuffle(width, seed=rng.randint(0, 99))] if kind == "seed" else []


def _stage(rng: random.Random, width: int, widest: int) -> list[Step]:
    blocks = rng.choice(_divisors(width))
    inner = rng.choice(_divisors(blocks))
    outputs = rng.randint(1, max(1, min(widest // blocks, 64)))
    return [Stage(blocks // inner, outputs, width // blocks, inner)]


def _graph(rng: random.Random, width: int, widest: int) -> list[Step]:
    size = rng.choice(_divisors(width))
    outputs = size * rng.randint(1, max(1, widest // size))
    return [GraphStage("random", width, outputs, width // size, seed=rng.randint(0, 99))]


def _cascade(rng: random.Random, width: int, widest: int) -> list[Step]:
    """Square stages of one small radix after another, as butterflies have them."""
    steps: list[Step] = []
    inner = 1
    while len(steps) < 6:
        radices = [n for n in (2, 3, 4, 5, 7, 8, 16) if width // inner % n == 0]
        if not radices:
            break
        radix = rng.choice(radices)
        steps.append(Stage(width // inner // radix, radix, radix, inner))
        inner *= radix
    return steps[:: rng.choice((1, -1))]


# ------------------------------------------------------------------------------ one case


class Case:
    """One fabric with one batch; all but the fabric follows from a number.

    Args:
        fabric: what to compute.
        seed: of the numbers, the types, the places in memory, the threads and so on.
        isas: instruction sets to choose from; the one in use where there are none.
    """

    def __init__(self, fabric: Fabric, seed: int, isas: Sequence[str] = ()) -> None:
        self.fabric, self.seed = fabric, seed
        self.rng = rng = random.Random(seed)
        self.isa = isas[seed % len(isas)] if isas else None
        self.kind = TYPES[rng.choice(("float32", *TYPES))]
        self.rows = rng.choice(BATCHES)
        self.activation = rng.choice(("identity", *ACTIVATIONS))
        self.threads = rng.choice((0, 0, 1, 2, 3, 7))
        self.order = rng.choice(("backwards", "backwards", "parallel"))
        self.description, self.indices = native.described(fabric)
        numbers = np.random.default_rng(seed)
        shapes = native.weight_shapes(self.description)
        self.x = numbers.standard_normal((self.rows, fabric.in_features))
        self.grad = numbers.standard_normal((self.rows, fabric.out_features))
        self.factors = [numbers.standard_normal(s) / s[-1] ** 0.5 for s in shapes]
        self.bias = numbers.standard_normal(fabric.out_features) if rng.random() < 0.5 else None
        if rng.random() < 0.2:  # the gradient of a sum, which has one row for all
            self.grad[:] = self.grad[:1]

    def __str__(self) -> str:
        """Names the case and the line that runs it again."""
        isa = f" --isa {self.isa}" if self.isa else ""
        return (
            f"{self.fabric}\n{self.kind.name}, {self.rows} rows, {self.activation}, "
            f"bias {self.bias is not None}, {self.threads} threads {self.order}\n"
            f"python -m tests.support.native_fuzz{isa} --seed {self.seed} "
            f"--fabric '{self.fabric.to_json()}'"
        )

    def check(self) -> None:
        """Compare everything.

        Raises:
            AssertionError: something differs; the message ends with a line to run it again.
        """
        if self.isa:
            native.use_isa(self.isa)
        try:
            self._check()
        except (AssertionError, CoreError) as wrong:
            raise AssertionError(f"{wrong}\nin {self}") from None

    def _check(self) -> None:
        self.compiled = Compiled(self.description, self.indices)
        want, size = self._wanted()
        y = self._forward()
        self._compare("y", y, want.y, size.y)
        assert _same(y, self._forward()), "other bits with the arrays at other places"
        everything = [True] * (1 + len(self.factors))
        gradients = self._backward(everything)
        names = ["grad_x", *(f"grad_factors[{i}]" for i in range(len(self.factors)))]
        for name, got, good, scale in zip(
            names,
            gradients,
            [want.grad_x, *want.grad_factors],
            [size.grad_x, *size.grad_factors],
            strict=True,
        ):
            self._compare(name, got, good, scale)
        some = [self.rng.random() < 0.5 for _ in everything]
        for name, once, again in zip(names, gradients, self._backward(some), strict=True):
            assert again is None or _same(once, again), f"{name}: other bits the second time"

    def _wanted(self) -> tuple[Results, Results]:
        """The results and their typical sizes, for the numbers as the type holds them."""
        held = [
            None if a is None else self.kind.read(self.kind.store(a))
            for a in (self.x, self.grad, self.bias)
        ]
        x, grad, bias = held
        factors = [self.kind.read(self.kind.store(factor)) for factor in self.factors]
        arguments = (self.description, self.indices, x, factors, grad)
        want, size = computed(*arguments), typical(*arguments)
        if bias is not None:
            want.y, size.y = want.y + bias, np.sqrt(size.y**2 + bias**2)
        want.y = activated(self.activation, want.y)
        return want, size

    def _compare(self, name: str, got: Placed, want: native.Floats, size: native.Floats) -> None:
        found = error(self.kind.read(got.array), want, size)
        assert found < self.kind.most, f"{name}: relative error {found:.2e}"

    def _threads(self) -> Threads | None:
        return Threads(self.threads, self.order) if self.threads else None

    def _forward(self) -> Placed:
        y = self._empty((self.rows, self.fabric.out_features))
        self.compiled.forward(
            self.kind,
            self._put(self.x, strided=True),
            [self._put(factor) for factor in self.factors],
            y,
            None if self.bias is None else self._put(self.bias),
            ACTIVATIONS[self.activation],
            threads := self._threads(),
        )
        self._after("y", y, threads)
        return y

    def _backward(self, wanted: Sequence[bool]) -> list[Placed | None]:
        shapes = [self.x.shape, *(factor.shape for factor in self.factors)]
        results = [self._empty(s) if want else None for s, want in zip(shapes, wanted, strict=True)]
        self.compiled.backward(
            self.kind,
            self._put(self.grad, strided=True),
            self._put(self.x, strided=True),
            [self._put(factor) for factor in self.factors],
            results[0],
            results[1:],
            threads := self._threads(),
        )
        for result in results:
            self._after("a gradient", result, threads)
        return results

    def _after(self, name: str, result: Placed | None, threads: Threads | None) -> None:
        strays = result.strays() if result else 0
        assert not strays, f"{name}: {strays} bytes around it were written"
        tasks = threads.tasks if threads else []
        assert all(0 < t <= self.threads for t in tasks), f"{self.threads} threads, {tasks} tasks"
        assert self.threads != 1 or not tasks, "one thread, and yet the pool was asked"

    def _empty(self, shape: Sequence[int]) -> Placed:
        where, shift = self.rng.choice(PLACES), self.rng.choice((0, 0, 1, 3))
        return native.place(shape, self.kind.stored, where, shift)

    def _put(self, values: native.Floats, strided: bool = False) -> Placed:
        """The values somewhere; rows apart where that is allowed, or all in one place if equal."""
        where, shift = self.rng.choice(PLACES), self.rng.choice((0, 0, 1, 3))
        stride = -1
        if strided:
            stride = values.shape[1] + self.rng.choice((0, 0, 1, 5, 64))
            if len(values) > 1 and not np.ptp(values, axis=0).any():
                stride = 0
        placed = native.place(values.shape, self.kind.stored, where, shift, stride)
        placed.array[...] = self.kind.store(values)
        return placed


def _same(first: Placed, second: Placed) -> bool:
    return first.array.tobytes() == second.array.tobytes()


# ------------------------------------------------------------------------------ bad descriptions


EXTREMES = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 2**16, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)


def check_damaged(fabric: Fabric, seed: int) -> bool:
    """Damage a description: the core refuses it, or computes without a stray byte.

    Returns:
        Whether it was refused.
    """
    rng = random.Random(seed)
    description, indices = native.described(fabric)
    numbers, reads = description.tolist(), indices.tolist()
    for _ in range(rng.choice((1, 1, 2, 3))):
        damaged = rng.choice((numbers, numbers, reads)) or numbers or [0]
        place = rng.randrange(len(damaged))
        change = rng.choice(("extreme", "nearer", "cut", "add", "swap"))
        if change == "extreme":
            damaged[place] = rng.choice(EXTREMES)
        elif change == "nearer":
            damaged[place] += -1 if damaged[place] > 0 else 1
        elif change == "cut":
            del damaged[place:]
        elif change == "add":
            damaged.insert(place, rng.randint(-1, 9))
        else:
            other = rng.randrange(len(damaged))
            damaged[place], damaged[other] = damaged[other], damaged[place]
    try:
        compiled = Compiled(numbers, reads)
    except CoreError:
        return True
    _check_accepted(compiled, np.array(numbers), np.array(reads, np.int64), rng.choice((1, 9, 33)))
    return False


def _check_accepted(
    compiled: Compiled, description: native.Integers, indices: native.Integers, rows: int
) -> None:
    kind = TYPES["float64"]
    shapes = native.weight_shapes(description)
    if sum(int(np.prod(s)) for s in [*shapes, description[:2]]) > 1e6:
        return
    numbers = np.random.default_rng(0)
    values = [numbers.standard_normal((rows, width)) for width in description[:2]]
    values += [numbers.standard_normal(shape) for shape in shapes]
    placed = [native.place(v.shape, kind.stored, "before a fence") for v in values]
    for array, value in zip(placed, values, strict=True):
        array.array[...] = value
    x, grad, *factors = placed
    results = [native.place(v.shape, kind.stored, "exact") for v in values]
    compiled.forward(kind, x, factors, results[1])
    compiled.backward(kind, grad, x, factors, results[0], results[2:])
    arguments = (description, indices, values[0], values[2:], values[1])
    want, size = computed(*arguments), typical(*arguments)
    for got, good, scale in zip(
        results,
        [want.grad_x, want.y, *want.grad_factors],
        [size.grad_x, size.y, *size.grad_factors],
        strict=True,
    ):
        found = error(got.array, good, scale)
        assert found < kind.most, f"{found:.2e} for {description.tolist()} {indices.tolist()}"
        assert not got.strays()


# ------------------------------------------------------------------------------ by hand


def cases(fabrics: Sequence[Fabric], widest: int, seed: int) -> Iterator[tuple[Fabric, int]]:
    """The given fabrics and then random ones, each with its number, for ever."""
    for number in range(len(fabrics)):
        yield fabrics[number], seed + number
    number = len(fabrics)
    while True:
        yield random_fabric(random.Random(seed + number), widest), seed + number
        number += 1


def main(arguments: Sequence[str]) -> int:
    """Check fabrics until the time is over; say how many there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fabric", help="JSON of one fabric: check only that")
    parser.add_argument("--fabrics", type=Path, help="a file of fabrics to begin with")
    parser.add_argument("--verbose", action="store_true", help="print each case before it runs")
    parser.add_argument("--widest", type=int, default=100)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--isa", action="append", help="instruction sets; all by default")
    options = parser.parse_args(arguments)
    isas = options.isa or native.instruction_sets()
    if options.fabric:
        Case(Fabric.from_json(options.fabric), options.seed, isas).check()
        check_damaged(Fabric.from_json(options.fabric), options.seed)
        return 0
    lines = options.fabrics.read_text().splitlines() if options.fabrics else []
    end = time.monotonic() + options.seconds
    done = refused = 0
    for fabric, seed in cases(
        [Fabric.from_json(line) for line in lines], options.widest, options.seed
    ):
        if done >= options.count or time.monotonic() > end:
            break
        case = Case(fabric, seed, isas)
        if options.verbose:
            print(case, flush=True)
        case.check()
        refused += check_damaged(fabric, seed)
        done += 1
    print(f"{done} cases, {refused} damaged descriptions refused, on {', '.join(isas)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
