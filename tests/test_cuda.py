"""The CUDA module as far as it can be tested without a GPU, and the dispatch to it.

What runs on a GPU is tested as the cuda columns of test_<operation>.py, and at the end here.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_cupy import STREAM, FakeCupyArray, fake_cupy, on_gpu, relabelled
from test_ewald_slice import problem

import spicore as sp
from spicore import _core, _dispatch, orientations
from spicore._dispatch import CudaStatus, cuda_status
from spicore.errors import CudaError, InputError, SpicoreError

OPERATIONS = {
    "accumulate", "compress", "correlate", "ewald_merge", "ewald_slice", "expand", "maximize",
    "phase", "polar_frames", "polar_views", "posterior", "sort_photons",
}  # fmt: skip
"""Every operation that has a GPU side."""

FUNCTIONS = OPERATIONS | {
    "compress_background", "compress_dense", "match", "maximize_background", "maximize_dense",
    "photons_to_dense", "screen",
}  # fmt: skip
"""What they are in the module."""


class FakeGpuArray:
    """A NumPy array that says it is on a GPU: its capsule is NumPy's own, relabelled."""

    def __init__(self, array, versioned=True, device_type=2):
        self.array = array
        self.versioned = versioned
        self.device_type = device_type

    def __dlpack_device__(self):
        return (self.device_type, 0)

    def __dlpack__(self, *, stream, **version):
        assert stream == -1
        if version and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        return relabelled(self.array.__dlpack__(**version), self.device_type)


@pytest.fixture
def cuda_module():
    if not cuda_status().built:
        pytest.skip(f"CUDA: {cuda_status().reason}")
    from spicore import _cuda

    return _cuda


@pytest.fixture
def no_gpu(cuda_module):
    if cuda_status().usable:
        pytest.skip("needs a machine without a GPU: a kernel would read host memory")
    return cuda_module


# --- the module


def test_imports_in_a_fresh_process_with_every_operation(cuda_module):
    """An operation that is declared and bound but not defined is an undefined symbol here."""
    code = "import spicore._cuda as m; print(m.device_count(), *dir(m))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *names = run.stdout.split()
    assert int(count) == cuda_module.device_count()
    public = {name for name in names if not name.startswith("__")}
    assert public - {"device_count", "device_status", "phase_sizes"} == FUNCTIONS


def test_operations_are_those_of_the_build():
    cmake = Path(__file__).resolve().parents[1] / "CMakeLists.txt"
    listed = re.search(r"set\(cuda_operations ([^)]*)\)", cmake.read_text())[1]
    assert set(listed.split()) == OPERATIONS
    assert FUNCTIONS <= set(dir(_core))


@pytest.mark.parametrize("name", ["_core", "_cuda", "_emulated"])
def test_stub_has_every_function_with_its_arguments(name):
    module = pytest.importorskip(f"spicore.{name}")
    stub_name = name.replace("_emulated", "_cuda")
    stub = ast.parse(Path(sp.__file__).with_name(f"{stub_name}.pyi").read_text())
    declared = {f.name: len(f.args.args + f.args.posonlyargs) for f in stub.body if is_function(f)}
    signatures = {f: getattr(module, f).__doc__ for f in dir(module) if is_builtin(module, f)}
    # pybind11 writes "name(arg0: array, ...) -> None", or the argument's name.
    bound = {f: len(re.findall(r"\w+: ", doc.split(" -> ")[0])) for f, doc in signatures.items()}
    assert declared == bound


def is_function(node):
    return isinstance(node, ast.FunctionDef)


def is_builtin(module, name):
    return inspect.isbuiltin(getattr(module, name))


def test_status_has_a_reason():
    status = cuda_status()
    assert status.reason
    assert status.built or not status.usable


def test_no_device_is_a_cuda_error_of_the_operation(no_gpu):
    arguments = slice_arguments(FakeGpuArray)
    with pytest.raises(CudaError, match=r"ewald_slice: .* \(cudaError"):
        no_gpu.ewald_slice(*arguments, 0)


# --- arrays at the boundary: what passes the checks comes as far as the launch


def slice_arguments(wrap, **change):
    volume, quats, q = problem(5, 2, 7)
    arrays = {
        "volume": volume,
        "quats": quats,
        "q": np.ascontiguousarray(q.T),
        "friedel": False,
        "out": np.zeros((2, 7), np.float32),
        **change,
    }
    return [wrap(x) if isinstance(x, np.ndarray) else x for x in arrays.values()]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def test_read_only_input_passes(no_gpu):
    volume = read_only(problem(5, 2, 7)[0])
    with pytest.raises(CudaError):
        no_gpu.ewald_slice(*slice_arguments(FakeGpuArray, volume=volume), 0)


@pytest.mark.parametrize("device_type", [2, 13])
@pytest.mark.parametrize("versioned", [True, False])
def test_both_dlpack_versions_and_managed_memory_pass(no_gpu, versioned, device_type):
    def wrap(x):
        return FakeGpuArray(x, versioned, device_type)

    with pytest.raises(CudaError):
        no_gpu.ewald_slice(*slice_arguments(wrap), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"volume": np.zeros((5, 5, 5))},  # dtype
        {"volume": np.zeros((5, 5, 5), np.int32)},
        {"quats": np.zeros((2, 4), np.float32)},
        {"volume": np.zeros((5, 5), np.float32)},  # rank
        {"volume": np.zeros((5, 5, 10), np.float32)[..., ::2]},  # layout
        {"volume": np.asfortranarray(np.zeros((5, 5, 5), np.float32))},
        {"out": read_only(np.zeros((2, 7), np.float32))},  # read-only
        {"volume": [[[0.0]]]},  # no array
        {"friedel": "yes"},
    ],
)
def test_unfit_arrays_are_refused(no_gpu, change):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        no_gpu.ewald_slice(*slice_arguments(FakeGpuArray, **change), 0)


def test_host_arrays_are_refused(no_gpu):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        no_gpu.ewald_slice(*slice_arguments(lambda x: x), 0)


def test_axes_of_length_one_may_have_any_stride(no_gpu):
    quats = np.zeros((3, 4))[::3]  # [1, 4] with a stride of 12
    out = np.zeros((1, 7), np.float32)
    with pytest.raises(CudaError):
        no_gpu.ewald_slice(*slice_arguments(FakeGpuArray, quats=quats, out=out), 0)


@pytest.mark.parametrize("versioned", [True, False])
def test_memory_is_released_after_the_call(no_gpu, versioned):
    volume = problem(5, 2, 7)[0]
    before = sys.getrefcount(volume)
    for _ in range(10):
        arguments = slice_arguments(lambda x: FakeGpuArray(x, versioned), volume=volume)
        with pytest.raises(CudaError):
            no_gpu.ewald_slice(*arguments, 0)
        del arguments
    assert sys.getrefcount(volume) == before


# --- dispatch, with NumPy dressed up as CuPy and the CPU kernels as CUDA's


class OtherGpuArray(FakeCupyArray):
    def __dlpack_device__(self):
        return (2, 1)


@pytest.fixture
def launches(monkeypatch):
    """CuPy and spicore's CUDA module on a machine that has neither; returns the launches."""
    launches = []

    def kernel(name):
        def launch(*arguments):
            *arrays, stream = arguments
            assert all(isinstance(x, FakeCupyArray | bool) for x in arrays)
            launches.append((name, stream))
            getattr(_core, name)(
                *(np.asarray(x) if isinstance(x, np.ndarray) else x for x in arrays), 1
            )

        return launch

    cuda = ModuleType("spicore._cuda")
    for name in OPERATIONS:
        setattr(cuda, name, kernel(name))
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setitem(sys.modules, "spicore._cuda", cuda)
    monkeypatch.setattr(sp, "_cuda", cuda, raising=False)
    monkeypatch.setattr(_dispatch, "cuda_status", lambda: CudaStatus(True, True, "1 usable GPU"))
    return launches


def test_slice_on_a_gpu(launches):
    arrays = problem(9, 3, 130)
    got = sp.ewald_slice(*map(on_gpu, arrays))
    assert isinstance(got, FakeCupyArray)
    assert launches == [("ewald_slice", STREAM)]
    np.testing.assert_array_equal(np.asarray(got), sp.ewald_slice(*arrays))
    out = on_gpu(np.zeros((3, 130), np.float32))
    assert sp.ewald_slice(*map(on_gpu, arrays), out=out) is out
    np.testing.assert_array_equal(np.asarray(out), np.asarray(got))


@pytest.mark.parametrize("friedel", [False, True])
@pytest.mark.parametrize("group", [None, "T"])
def test_merge_on_a_gpu(launches, friedel, group):
    _, quats, q = problem(9, 3, 130, reach=0.25)
    slices = np.random.default_rng(0).random((3, 130), np.float32)
    symmetry = orientations.point_group(group) if group else None
    options = {"symmetry": symmetry, "friedel": friedel}
    got = sp.ewald_merge(*map(on_gpu, (slices, quats, q)), 9, **options)
    assert len(launches) == (12 if group else 1)
    for a, b in zip(got, sp.ewald_merge(slices, quats, q, 9, **options), strict=True):
        assert isinstance(a, FakeCupyArray)
        assert a.flags.c_contiguous
        # The product with a group element is a matrix product here: other roundings.
        np.testing.assert_allclose(np.asarray(a), b, atol=1e-5 * b.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"volume": np.zeros((5, 5, 5))},
            r"volume must be float32 \[any, any, any\] \(on a GPU nothing is converted\), "
            r"got float64 \[5, 5, 5\]",
        ),
        ({"quats": np.zeros((2, 4), "f4")}, r"quats must be float64 \[any, 4\] .* got float32"),
        ({"q": np.zeros((3, 7), "f4")}, r"q must be float32 \[any, 3\] .* got float32 \[3, 7\]"),
        ({"volume": np.zeros((4, 5, 5), "f4")}, "volume must be cubic with N >= 2"),
        ({"out": np.zeros((2, 8), "f4")}, r"out must be float32 \[2, 7\]"),
    ],
)
def test_wrong_arrays_on_a_gpu(launches, change, message):
    volume, quats, q = problem(5, 2, 7)
    arrays = {"volume": volume, "quats": quats, "q": q, **change}
    with pytest.raises(InputError, match=message):
        sp.ewald_slice(**{name: on_gpu(x) for name, x in arrays.items()})
    assert launches == []


def test_layout_on_a_gpu(launches):
    volume, quats, q = map(on_gpu, problem(5, 2, 7))
    with pytest.raises(InputError, match=r"volume must be C-contiguous \(on a GPU nothing is copi"):
        sp.ewald_slice(volume[::-1], quats, q)
    assert sp.ewald_slice(volume, quats, q[::-1]).shape == (2, 7)  # q is transposed anyway


def test_one_device_and_one_library(launches):
    volume, quats, q = problem(5, 2, 7)
    with pytest.raises(InputError, match="volume and quats must be on one device, got cuda:0 and"):
        sp.ewald_slice(on_gpu(volume), quats, q)
    with pytest.raises(InputError, match="volume and q must be on one device, got cpu and cuda:0"):
        sp.ewald_slice(volume, quats, on_gpu(q))
    with pytest.raises(InputError, match="volume and out must be on one device"):
        sp.ewald_slice(*map(on_gpu, (volume, quats, q)), out=np.zeros((2, 7), np.float32))
    with pytest.raises(InputError, match="got cuda:0 and cuda:1"):
        sp.ewald_slice(on_gpu(volume), on_gpu(quats), q.view(OtherGpuArray))
    tensor = type("Tensor", (FakeCupyArray,), {"__module__": "torch"})
    with pytest.raises(InputError, match="volume and quats must be of one library, got cupy"):
        sp.ewald_slice(on_gpu(volume), quats.view(tensor), on_gpu(q))
    with pytest.raises(InputError, match=r"volume must be a torch or CuPy array .*FakeGpuArray"):
        sp.ewald_slice(FakeGpuArray(volume), on_gpu(quats), on_gpu(q))
    with pytest.raises(InputError, match=r"volume must be on the CPU or a CUDA GPU, .* type 8"):
        sp.ewald_slice(FakeGpuArray(volume, device_type=8), quats, q)


def test_gradients_are_refused():
    tensor = type("Tensor", (np.ndarray,), {"__module__": "torch", "requires_grad": True})
    volume, quats, q = problem(5, 2, 7)
    with pytest.raises(InputError, match=r"pass volume.detach\(\)"):
        sp.ewald_slice(volume.view(tensor), quats, q)


def test_gpu_arrays_without_a_usable_gpu(monkeypatch):
    monkeypatch.setattr(
        _dispatch, "cuda_status", lambda: CudaStatus(False, False, "built without CUDA")
    )
    with pytest.raises(CudaError, match="volume is on cuda:0, but: built without CUDA") as caught:
        sp.ewald_slice(*map(on_gpu, problem(5, 2, 7)))
    assert isinstance(caught.value, SpicoreError)


def test_build_and_load_failures_have_their_own_reason(monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'spicore._cuda'")

    def broken(*_):
        raise ImportError("undefined symbol: ewald_merge")

    def no_driver(*_):
        return SimpleNamespace(device_status=lambda: (0, "no driver"))

    for load, built, reason in (
        (missing, False, "built without CUDA"),
        (broken, True, "does not load: undefined symbol"),
        (no_driver, True, "no usable GPU: no driver"),
    ):
        monkeypatch.setattr(_dispatch.importlib, "import_module", load)
        status = cuda_status.__wrapped__()
        assert status[:2] == (built, False)
        assert reason in status.reason


def test_cpu_tensors_are_read_without_a_copy():
    class Tensor:  # as torch shows itself to NumPy
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return (1, 0)

        def __array__(self, dtype=None, copy=None):
            assert dtype in (None, self.array.dtype)
            return self.array

    arrays = problem(9, 3, 130)
    out = Tensor(np.zeros((3, 130), np.float32))
    assert sp.ewald_slice(*map(Tensor, arrays), out=out) is out
    np.testing.assert_array_equal(out.array, sp.ewald_slice(*arrays))


# --- on a GPU


@pytest.fixture
def torch_cuda():
    status = cuda_status()
    if not status.usable:
        pytest.skip(f"CUDA: {status.reason}")
    return pytest.importorskip("torch")


def test_runs_on_the_current_stream(torch_cuda):
    """Work queued before and after on a side stream is seen in order, without a wait."""
    torch = torch_cuda
    volume, quats, q = (torch.tensor(x, device="cuda") for x in problem(65, 64, 20_000))
    want = sp.ewald_slice(volume, quats, q)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(volume)
        torch.cuda._sleep(50_000_000)  # tens of milliseconds
        late += volume
        got = sp.ewald_slice(late, quats, q)
        late.zero_()
    torch.cuda.synchronize()
    assert torch.equal(got, want)


def test_shapes_are_checked_in_the_module_too(torch_cuda):
    from spicore import _cuda

    torch = torch_cuda
    volume, quats, q = (torch.tensor(x, device="cuda") for x in problem(5, 2, 7))
    out = torch.empty((2, 6), device="cuda")
    with pytest.raises(ValueError, match=r"out must be \[R, T\]"):
        _cuda.ewald_slice(volume, quats, q.T.contiguous(), False, out, 0)


def test_output_is_written_everywhere(torch_cuda):
    torch = torch_cuda
    volume, quats, q = (torch.tensor(x, device="cuda") for x in problem(33, 37, 1237))
    out = torch.full((37, 1237), float("nan"), device="cuda")
    sp.ewald_slice(volume, quats, q, out=out)
    assert not torch.isnan(out).any()


def test_gradient_on_a_gpu_is_refused(torch_cuda):
    torch = torch_cuda
    volume, quats, q = (torch.tensor(x, device="cuda") for x in problem(5, 2, 7))
    with pytest.raises(InputError, match=r"pass volume.detach\(\)"):
        sp.ewald_slice(volume.requires_grad_(), quats, q)
