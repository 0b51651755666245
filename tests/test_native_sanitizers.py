"""The same fuzz with a core that is compiled to watch each address and each thread."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsify.topology import TOPOLOGIES
from tests.support.fabrics import random_fabrics
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

CORE, ORT = (ROOT / "sparsify" / "native" / name for name in ("core", "ort"))
COMPILER = shutil.which("g++")
X86 = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ),
}
SETS = {"x86_64": X86, "amd64": X86, "aarch64": {"neon": ()}, "arm64": {"neon": ()}}
FLAGS = (
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-fno-threadsafe-statics", "-Wno-psabi", "-g1", "-fno-omit-frame-pointer"),
    f"-I{CORE.parent}",
)
FAILING = """
#include <cstdlib>
extern "C" __attribute__((visibility("default"))) long allocations_left;
static inline bool has_memory() { return allocations_left < 0 || allocations_left-- > 0; }
#define calloc(count, size) (has_memory() ? calloc(count, size) : nullptr)
#define malloc(size) (has_memory() ? malloc(size) : nullptr)
#define aligned_alloc(to, size) (has_memory() ? aligned_alloc(to, size) : nullptr)
#if defined(FAILING_HERE)
long allocations_left = -1;
#endif
"""
"""A header that lets the n-th allocation fail."""

ADDRESSES = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-O1", "-fsanitize=thread")


def runtime(name: str) -> Path | None:
    """The library of a sanitizer, which has to be there before Python starts."""
    if COMPILER is None:
        return None
    done = subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    found = Path(done.stdout.strip())
    return found if found.is_file() else None


def build(folder: Path, flags: tuple[str, ...]) -> Path:
    """The native library with a sanitizer, two compilers at a time."""
    sources = [*sorted(CORE.glob("*.cpp")), *sorted(ORT.glob("*.cpp"))]
    jobs = [
        (source, f"{source.parent.name}_{source.stem}", ())
        for source in sources
        if source.name != "isa.cpp"
    ]
    sets = SETS.get(platform.machine().lower(), {"baseline": ()})
    jobs += [
        (CORE / "isa.cpp", isa, (*more, f"-DSPARSIFY_ISA={isa}")) for isa, more in sets.items()
    ]
    commands = [
        [str(COMPILER), *FLAGS, *flags, *more, "-c", str(source), "-o", str(folder / f"{name}.o")]
        for source, name, more in reversed(jobs)  # the slow ones first
    ]
    header = folder / "failing.h"
    header.write_text(FAILING)
    for command in commands:
        command += ["-include", str(header)]
    commands[-1].append("-DFAILING_HERE")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_compile, commands))
    library = folder / "libsparsify.so"
    objects = [str(folder / f"{name}.o") for _, name, _ in jobs]
    link = [str(COMPILER), "-shared", *flags, "-o", str(library), *objects, "-lm", "-lpthread"]
    _compile(link)
    return library


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]


def watched(
    library: Path, preload: Path | None, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run Python without torch and with the library that was built here."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONMALLOC": "malloc",  # each array by itself, so that its ends are watched
        "SPARSIFY_NATIVE_LIBRARY": str(library),
        "LD_PRELOAD": str(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaks
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=library.parent,
        capture_output=True,
        text=True,
    )


def corpus(folder: Path, each: int) -> Path:
    """A file with fabrics of all families, which need torch to be made."""
    found = [fabric for name in TOPOLOGIES for fabric in random_fabrics(name, each, seed=9)]
    path = folder / "fabrics"
    path.write_text("\n".join(fabric.to_json() for fabric in found))
    return path


OVERRUN = """
import numpy as np
from tests.support import native
from tests.support.native_calls import RICH, Call
call = Call(RICH, 33)
short = native.place((33, RICH.out_features - 1), np.float32, "exact")
call.handle.forward(call.kind, call.x, call.factors, short)
"""

NO_MEMORY = """
import ctypes, threading
from tests.support import native
from tests.support.native_calls import RICH, Call
left = ctypes.c_long.in_dll(native.core(), "allocations_left")
def fails(work):
    for number in range(1000):
        left.value = number
        done = []
        def attempt():
            try:
                done.append(work())
            except native.CoreError as error:
                assert "memory" in str(error), error
        thread = threading.Thread(target=attempt)  # with no memory from calls before
        thread.start()
        thread.join()
        left.value = -1
        if done:
            return number
numbers = native.described(RICH)
print("create", fails(lambda: native.Compiled(*numbers)))
for kind in native.TYPES.values():
    call = Call(RICH, 100, kind)
    for threads in (None, native.Threads(3)):
        print(kind.name, fails(lambda: call.forward(3, threads)))
        print(kind.name, fails(lambda: call.backward(threads)))
"""

RACE = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from tests.support import native
from tests.support.native_calls import RICH, Call
call = Call(RICH, 100)
y = native.place((100, RICH.out_features), np.float32, "exact")
with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda _: call.handle.forward(call.kind, call.x, call.factors, y), range(20)))
"""

MANY = """
from concurrent.futures import ThreadPoolExecutor
from tests.support import native
from tests.support.native_calls import RICH, Call
for isa in native.instruction_sets():
    native.use_isa(isa)
    for kind in native.TYPES.values():
        calls = [Call(RICH, rows, kind) for rows in (1, 9, 33, 130)]
        for call in calls:
            call.handle = calls[0].handle
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda call: call.everything(native.Threads(3, "parallel")), 4 * calls))
"""


@pytest.mark.skipif(runtime("libasan.so") is None, reason="no g++ with libasan")
def test_addresses_and_undefined_behaviour(tmp_path: Path) -> None:
    library, preload = build(tmp_path, ADDRESSES), runtime("libasan.so")
    caught = watched(library, preload, "-c", OVERRUN)
    assert "heap-buffer-overflow" in caught.stderr, f"not awake: {caught.stderr[-2000:]}"
    done = watched(library, preload, "-c", NO_MEMORY)
    assert not done.returncode, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    failures = [int(word) for word in done.stdout.split() if word.isdigit()]
    assert min(failures) >= 1, done.stdout
    done = watched(
        library,
        preload,
        *("-m", "tests.support.native_fuzz", "--verbose"),
        *("--seconds", "110", "--count", "2000", "--widest", "150"),
        *("--fabrics", str(corpus(tmp_path, 30))),
    )
    assert not done.returncode, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    print(done.stdout.splitlines()[-1])


@pytest.mark.skipif(runtime("libtsan.so") is None, reason="no g++ with libtsan")
def test_threads_share_nothing(tmp_path: Path) -> None:
    library, preload = build(tmp_path, THREADS), runtime("libtsan.so")
    caught = watched(library, preload, "-c", RACE)
    if "unexpected memory mapping" in caught.stderr:
        pytest.skip("the thread sanitizer does not run under this kernel")
    assert "data race" in caught.stderr, f"not awake: {caught.stderr[-2000:]}"
    done = watched(library, preload, "-c", MANY)
    assert not done.returncode, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
