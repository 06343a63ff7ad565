"""The emulation of CUDA that tests run kernels on: what it computes, and what it reports."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = r"""
#include <cstdio>
#include <stdexcept>

#include "launch.cuh"

using spicore::cuda::launch;

namespace spicore::cuda {
void check(cudaError_t status, const char *operation) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(operation) + ": " + cudaGetErrorString(status));
}
}

namespace {

__global__ void exchange(float *out) {
  __shared__ float given[96];
  const int i = threadIdx.x, lane = i % 32;
  given[i] = float(i);
  __syncthreads();
  float x = given[95 - i];
  for (int step = 16; step > 0; step /= 2)
    x += __shfl_xor_sync(~0u, x, step);
  if (i >= 64)
    return;
  __syncthreads();
  out[i] = x;
  out[64 + i] = float(__ballot_sync(~0u, lane < 5)) + __shfl_down_sync(~0u, float(lane), 3);
  atomicAdd(out + 128, 1.0f);
}

__global__ void missing_barrier(float *out) {
  __shared__ float value;
  if (threadIdx.x == 0)
    value = 1.0f;
  out[64 * blockIdx.x + threadIdx.x] = value;
}

__global__ void divergent(bool other_place) {
  if (threadIdx.x < 16)
    __syncthreads();
  else if (other_place)
    __syncthreads();
  else
    __syncwarp();
}

__global__ void sum_of_dynamic(int n, float *out) {
  float *values = spicore::cuda::dynamic_shared<float>();
  values[threadIdx.x] = out[0];
  __syncthreads();
  if (threadIdx.x == 0)
    for (int i = 0; i < n; ++i)
      out[1 + i] = values[i];
}

template <class Body> void report(const char *name, const Body &body) {
  try {
    body();
    std::printf("%s: done\n", name);
  } catch (const std::exception &error) {
    std::printf("%s\n", error.what());
  }
}

} // namespace

int main() {
  const spicore::Exec exec;
  static float out[1 << 17] = {};
  launch(exec, "exchange", exchange, 1, 96, 0, out);
  std::printf("%g %g %g %g %g\n", out[0], out[63], out[64], out[127], out[128]);
  launch(exec, "missing_barrier", missing_barrier, 2, 64, 0, out);
  std::printf("%d\n", out[63] != out[63] || out[127] != out[127]);
  report("divergent", [&] { launch(exec, "divergent", divergent, 1, 64, 0, true); });
  report("divergent", [&] { launch(exec, "divergent", divergent, 1, 64, 0, false); });
  report("again", [&] { launch(exec, "exchange", exchange, 3, 96, 0, out); });
  out[0] = 1.0f;
  report("dynamic", [&] {
    launch(exec, "dynamic", sum_of_dynamic, 1, 64, 60 << 10, 65, out);
  });
  std::printf("%g %d\n", out[64], out[65] != out[65]);
  report("large", [&] { launch(exec, "large", sum_of_dynamic, 1, 64, 300 << 10, 65, out); });
  report("many", [&] { launch(exec, "many", sum_of_dynamic, 1, 1025, 0, 65, out); });
}
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("emulation")
    (folder / "program.cpp").write_text(PROGRAM)
    emulation = ROOT / "cuda" / "emulation"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-DSPICORE_EMULATED",
         *(f"-I{x}" for x in (emulation, ROOT / "cuda", ROOT / "cpp" / "include")),
         folder / "program.cpp", emulation / "emulation.cpp", "-o", folder / "program"],
        check=True,
    )  # fmt: skip
    run = subprocess.run([folder / "program"], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_barriers_exchanges_and_atomics(lines):
    first = sum(range(64, 96))  # thread i has 95 - i, summed over its warp
    assert lines[0] == f"{first} {sum(range(32, 64))} {31 + 3} {31 + 31} 64"


def test_shared_memory_is_nan_where_nothing_was_written(lines):
    assert lines[1] == "1"  # a thread that ran before the one that writes
    assert lines[5:7] == ["dynamic: done", "1 1"]


def test_divergent_barriers_are_reported_not_hung(lines):
    for line, waiting in zip(
        lines[2:4], ("48 wait for __syncthreads at", "16 wait for an exchange"), strict=True
    ):
        assert line.startswith("divergent: a barrier that not all threads reach:")
        assert "16 wait for __syncthreads at" in line
        assert waiting in line
    assert lines[4] == "again: done"


def test_launches_that_no_gpu_takes_are_refused(lines):
    assert lines[7] == "large: invalid configuration argument"
    assert lines[8] == "many: invalid configuration argument"
