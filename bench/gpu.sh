#!/bin/bash
# On a machine with a GPU: build with CUDA, test the CUDA columns, check memory accesses,
# benchmark. No network, no pip: python3 must have spicore's dependencies (pyproject.toml),
# scipy, torch, pybind11, pytest and pytest-benchmark, and CuPy for its columns; cmake, ninja
# and compute-sanitizer must be on the PATH. 8 minutes at most: every stage has a limit.
#
#   bench/gpu.sh [compute capability, default that of the GPU]
#
# Results: bench/results/<gpu>_*.json, copied to $OUT where that is set.
set -u
cd "$(dirname "$0")/.."
root=$PWD
build=$root/build/gpu
architecture=${1:-native}
export PYTHONPATH=$root/python${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=()

stage() { # stage NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name"
  # An interrupt first: pytest then says what it found, and writes it.
  timeout -s INT -k 5 "$limit" "$@" || failed+=("$name (exit $?)")
  echo "== $name: $((SECONDS - start)) s"
}

build_modules() {
  cmake -S . -B "$build" -G Ninja -DSPICORE_CUDA=ON -DSPICORE_WERROR=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$architecture" \
    -DPython_EXECUTABLE="$(command -v python3)" \
    -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" >"$build.cmake.log" 2>&1 ||
    { tail -30 "$build.cmake.log"; return 1; }
  ninja -C "$build" | tail -20
  [ "${PIPESTATUS[0]}" -eq 0 ] || return 1
  rm -f python/spicore/_core*.so python/spicore/_cuda*.so
  cp "$build"/_core*.so "$build"/cuda/_cuda*.so python/spicore/
}
export -f build_modules
export build architecture

pytest=(python3 -m pytest -q -p no:cacheprovider -W default)
slices=(tests/test_ewald_slice.py tests/test_ewald_merge.py)
pixels=(tests/test_{sort_photons,expand,maximize,posterior,compress}.py)
polar=(tests/test_{polar_frames,polar_views,correlate,accumulate,matching}.py)
phase=tests/test_phase.py
# One allocation per tensor, so that a stray access is not inside a neighbour's memory.
sanitizer=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9)
few="matches_reference or matches_numpy or empty or not_finite or weight_zero or friedel or no_frames or tails"

mkdir -p "$build" bench/results
stage build 130 bash -c build_modules
[ ${#failed[@]} -eq 0 ] || exit 1
python3 - <<'EOF' || exit 1
import sys
from spicore._dispatch import cuda_status
print(cuda_status())
sys.exit(not cuda_status().usable)
EOF
gpu=$(python3 -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))')

stage tests 80 "${pytest[@]}" tests/test_cuda.py "${slices[@]}" "${pixels[@]}" "${polar[@]}" \
  "$phase" tests/test_emc_gpu.py tests/test_pixel_engine.py -k cuda -rs \
  --junitxml="bench/results/${gpu}_tests.xml"
stage memcheck 60 "${sanitizer[@]}" --tool memcheck "${pytest[@]}" "${slices[@]}" "${pixels[@]}" \
  "${polar[@]}" -k "cuda-torch and ($few)"
stage "memcheck phase" 25 "${sanitizer[@]}" --tool memcheck "${pytest[@]}" "$phase" \
  -k "cuda-torch and sizes_match and float32"
stage racecheck 40 "${sanitizer[@]}" --tool racecheck "${pytest[@]}" "${slices[@]}" "${pixels[@]}" \
  "${polar[@]}" -k "cuda-torch and (matches_reference or matches_numpy)"
stage "racecheck phase" 20 "${sanitizer[@]}" --tool racecheck "${pytest[@]}" "$phase" \
  -k "cuda-torch and sizes_match and float32 and (shape4 or shape10)"
for operation in ewald_slice ewald_merge; do
  stage "bench $operation" 15 "${pytest[@]}" "bench/bench_$operation.py" --benchmark-enable \
    --benchmark-columns=min,median,rounds \
    --benchmark-json="bench/results/${gpu}_$operation.json"
done

stage "bench phase" 30 python3 bench/bench_phase_gpu.py --machine "$gpu"
stage "bench emc" 60 python3 bench/bench_emc_gpu.py --machine "$gpu"

python3 - bench/results/"$gpu"_ewald_*.json <<'EOF'
import json, sys
for path in sys.argv[1:]:
    for b in json.load(open(path))["benchmarks"]:
        x = b["extra_info"]
        print(f"{b['name']:45} {1e3 * b['stats']['min']:9.3f} ms {x['samples_per_s'] / 1e9:8.3f} "
              f"Gsamples/s  logical {x['logical_GB_per_s']:8.1f} GB/s  compulsory "
              f"{x['compulsory_GB_per_s']:7.1f} GB/s  copy {x['copy_GB_per_s']:7.1f} GB/s")
EOF
[ -z "${OUT:-}" ] || cp bench/results/"$gpu"_* "$OUT"/
echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
