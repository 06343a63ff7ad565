"""How the package is built and loaded: instruction sets, symbols, what an import loads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spicore import Detector, _core, emc, simulate

ROOT = Path(__file__).resolve().parents[1]
LEVELS = ["baseline", "avx2", "avx512", "amx"]


def python(code):
    """What a fresh interpreter prints that finds the same package."""
    folder = str(Path(_core.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {folder!r}); {code}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


# --- instruction sets


def test_the_best_instruction_set_is_used():
    levels = _core.simd_levels()
    assert levels == LEVELS[: len(levels)]
    assert python("from spicore import _core; print(_core.simd())") == levels[-1]


def test_an_unknown_instruction_set_is_refused():
    before = _core.simd()
    with pytest.raises(ValueError, match="this machine cannot run the instruction set sse9"):
        _core.set_simd("sse9")
    assert _core.simd() == before


@pytest.fixture(scope="module")
def iterations():
    """Two iterations of EMC by instruction set, of 100 frames of 24 x 24 pixels."""
    detector = Detector.square(24, pixel_size=0.1 / 24, distance=0.1)
    volume = simulate.intensity(simulate.particle(3, diameter=6), detector.size)
    frames, _ = simulate.frames(volume, detector, 100, 300, seed=1)
    config = emc.Config(
        num_div=2, iterations=2, multiresolution=False, half_sets=False, refine=0, beta=0.2
    )
    before, results = _core.simd(), {}
    for level in _core.simd_levels():
        _core.set_simd(level)
        results[level] = emc.reconstruct(frames, detector, config, threads=2)
    _core.set_simd(before)
    return results


@pytest.mark.parametrize("level", LEVELS[1:])
def test_instruction_sets_agree(iterations, level):
    """Sums run in one order everywhere; only fused multiply-adds and their roundings differ.

    Log-likelihoods are good to 1e-3, and so are the probabilities at the most; measured 6e-8.
    """
    if level not in iterations:
        pytest.skip(f"this machine cannot run {level}")
    want, got = iterations["baseline"], iterations[level]
    distance = np.linalg.norm(got.intensity - want.intensity)
    assert 0 < distance < 1e-5 * np.linalg.norm(want.intensity)
    np.testing.assert_allclose(got.log_likelihood, want.log_likelihood, atol=1e-3)
    np.testing.assert_allclose(got.fluence, want.fluence, rtol=1e-5)
    # A tie of two orientations may fall to the other.
    assert (got.orientation == want.orientation).all(axis=1).mean() >= 0.99


# --- symbols


def symbols(path, *options):
    """(type, name) of the symbols of an object file or library."""
    run = subprocess.run(
        ["nm", "-C", *options, str(path)], capture_output=True, text=True, check=True
    )
    lines = (line.split(maxsplit=2) for line in run.stdout.splitlines())
    return [(parts[-2], parts[-1]) for parts in lines if len(parts) >= 2]


def weak(path):
    """Symbols that the linker merges with others of the same name, whoever compiled them."""
    return [name for kind, name in symbols(path) if kind in "WVu"]


@pytest.fixture(scope="module")
def nm():
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")


@pytest.fixture(scope="module")
def objects(nm):
    """Object files of the last build in the source tree, by target."""
    found = list((ROOT / "build").glob("**/CMakeFiles/spicore_cpu_*.dir/**/*.o"))
    if not found:
        pytest.skip(f"no object files of the kernels below {ROOT / 'build'}")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    targets = next(path for path in newest.parents if path.name == "CMakeFiles")
    folders = [*targets.glob("spicore_cpu_*.dir"), targets / "_core.dir"]
    return {path.name: list(path.rglob("*.o")) for path in folders}


@pytest.mark.parametrize("level", LEVELS)
def test_kernels_have_no_mergeable_symbols(objects, level):
    """An inline function that is not inlined is compiled once per instruction set, and the linker
    keeps any one of them. If that is the AVX-512 one, older machines die of it."""
    files = objects.get(f"spicore_cpu_{level}.dir")
    if not files:
        pytest.skip(f"the build has no {level} kernels")
    found = {path.name: weak(path) for path in files}
    assert len(found) >= 7 or (level == "amx" and "correlate.cpp.o" in found)
    assert not any(found.values()), found


def test_control_bindings_have_mergeable_symbols(objects):
    """Templates of pybind11, compiled for the baseline: the search above does find them."""
    assert any(weak(path) for path in objects["_core.dir"])


def test_kernels_are_in_the_namespace_of_their_instruction_set(objects):
    for level in LEVELS:
        for path in objects.get(f"spicore_cpu_{level}.dir", []):
            functions = [name for kind, name in symbols(path) if kind == "T"]
            assert functions
            assert all(name.startswith(f"spicore::cpu::{level}::") for name in functions)


def test_the_module_exports_none_of_its_functions(nm):
    """Two packages with the same C++ names must not meet."""
    if Path(_core.__file__).suffix != ".so":
        pytest.skip("not an ELF library")
    names = [name for _, name in symbols(_core.__file__, "-D", "--defined-only")]
    assert "PyInit__core" in names
    assert not [name for name in names if "spicore::" in name]


# --- imports


def test_import_loads_nothing_heavy():
    heavy = ["matplotlib", "torch", "scipy", "cupy", "rich", "mpi4py", "pandas"]
    code = f"import spicore; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"
    # The control: the same search finds what is loaded.
    assert python(code.replace("import spicore", "import spicore, json").replace(
        "'torch'", "'json'")) == "['json']"  # fmt: skip


def test_import_starts_no_thread():
    assert python("import spicore, threading; print(threading.active_count())") == "1"
