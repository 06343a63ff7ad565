#include "spicore/phase.hpp"

#include <stdexcept>

#include "phase_chip.cuh"
#include "phase_volume.cuh"
#include "phase_workspace.hpp"

namespace spicore::cuda {
namespace {

bool fits_on_chip(const PhaseGrid &grid, std::int64_t n_shells, std::size_t value_size,
                  ChipPlan &plan) {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "phase");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "phase");
  return make_chip_plan(grid, n_shells, std::int64_t(value_size), bytes, plan);
}

template <class T>
void run_phase(const Exec &exec, const PhaseTask<T> &task, T *work, double *sums) {
  if (task.n_seeds == 0 || task.n_iterations == 0)
    return;
  if (task.rounds[task.n_rounds - 1].from_old) // the next iteration starts from x
    throw std::invalid_argument("the last round must not be from_old");
  ChipPlan plan;
  if (fits_on_chip(task.grid, task.n_shells, sizeof(T), plan))
    run_on_chip(exec, task, plan);
  else
    run_volumes(exec, task, work, sums);
}

} // namespace

std::array<std::int64_t, 2> phase_scratch(const PhaseGrid &grid, std::int64_t n_seeds,
                                          std::int64_t n_shells, std::size_t value_size) {
  ChipPlan plan;
  if (n_seeds == 0 || fits_on_chip(grid, n_shells, value_size, plan))
    return {0, 0};
  return value_size == sizeof(float) ? volume_scratch<float>(grid, n_seeds, n_shells)
                                     : volume_scratch<double>(grid, n_seeds, n_shells);
}

void phase(const Exec &exec, const PhaseTask<float> &task, float *work, double *sums) {
  run_phase(exec, task, work, sums);
}

void phase(const Exec &exec, const PhaseTask<double> &task, double *work, double *sums) {
  run_phase(exec, task, work, sums);
}

} // namespace spicore::cuda
