#include "spicore/phase.hpp"
#include "operations.hpp"
#include "tensor.hpp"

#include <complex>

#include <pybind11/stl.h>

#ifdef SPICORE_BACKEND_CUDA
#include "phase_workspace.hpp"
#endif

namespace py = pybind11;
using spicore::BackgroundRound;
using spicore::Exec;
using spicore::PhaseGrid;
using spicore::PhaseRound;
using spicore::PhaseTask;
using spicore::bindings::require;
using spicore::bindings::Tensor;

namespace {

// (n0, n1, n2, real)
using GridTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, bool>;

#ifdef SPICORE_BACKEND_CUDA
// All columns are one block: spectra lie as the library's do.
template <class T> int lanes_of(const PhaseGrid &grid) { return int(grid.columns()); }

template <class T>
std::array<std::int64_t, 2> scratch(const PhaseGrid &grid, std::int64_t n_seeds,
                                    std::int64_t n_shells, int) {
  return spicore::cuda::phase_scratch(grid, n_seeds, n_shells, sizeof(T));
}
#else
template <class T> int lanes_of(const PhaseGrid &) {
  int of_float = 0, of_double = 0;
  SPICORE_CALL(phase_lanes, &of_float, &of_double);
  return sizeof(T) == sizeof(float) ? of_float : of_double;
}

// Values of work, doubles of sums.
template <class T>
std::array<std::int64_t, 2> scratch(const PhaseGrid &grid, std::int64_t n_seeds,
                                    std::int64_t n_shells, int threads) {
  return {spicore::phase_workspace(grid, n_seeds, threads, sizeof(T)).size,
          spicore::phase_sums(grid, n_shells)};
}
#endif

template <class T> PhaseGrid grid_of(const GridTuple &tuple) {
  const auto [n0, n1, n2, real] = tuple;
  require(n0 > 0 && n1 > 0 && n2 > 0, "grid must have axes of at least 1");
  require(n0 < (1 << 30) && n1 < (1 << 30) && n2 < (1 << 30),
          "grid must have axes below 2^30");
  PhaseGrid grid = {n0, n1, n2, real, 1};
  grid.lanes = lanes_of<T>(grid);
  return grid;
}

// (background, shell, weight of shells)
template <class T>
using Background =
    std::tuple<Tensor<T, 4>, Tensor<const std::int32_t, 3>, Tensor<const double, 1>>;

// Per round: a, b, c, d, e, f, g, from_old, and the ten of its background, pending.
using Round = std::tuple<std::array<double, 7>, bool, std::array<double, 9>, bool>;

template <class T> void set_rounds(PhaseTask<T> &task, const std::vector<Round> &rounds) {
  require(rounds.size() == 1 || rounds.size() == 2, "there must be one or two rounds");
  task.n_rounds = int(rounds.size());
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const auto &[u, from_old, b, pending] = rounds[i];
    task.rounds[i] = {u[0], u[1], u[2], u[3], u[4], u[5], u[6], from_old};
    task.background_rounds[i] = {b[0], b[1], b[2], b[3], b[4],
                                 b[5], b[6], b[7], b[8], pending};
  }
}

template <class T>
void set_background(PhaseTask<T> &task, const std::optional<Background<T>> &tensors) {
  task.background = nullptr;
  task.shell = nullptr;
  task.shell_weight = nullptr;
  task.n_shells = 0;
  if (!tensors)
    return;
  const auto &[background, shell, weight] = *tensors;
  const PhaseGrid &grid = task.grid;
  const std::array<std::int64_t, 3> blocks = {grid.n0, grid.blocks(), grid.lanes};
  require(shell.shape == blocks && background.shape[0] == task.n_seeds &&
              std::equal(blocks.begin(), blocks.end(), background.shape.begin() + 1),
          "background must be [S, n0, blocks, lanes] and shell the same without S");
  task.n_shells = weight.shape[0] - 1;
#ifndef SPICORE_BACKEND_CUDA // values on a GPU are not looked at
  for (std::int64_t i = 0; i < blocks[0] * blocks[1] * blocks[2]; ++i)
    require(shell.data[i] >= 0 && shell.data[i] <= task.n_shells,
            "shell must be from 0 to n_shells");
#endif
  task.background = background.data;
  task.shell = shell.data;
  task.shell_weight = weight.data;
}

// X: T, or std::complex<T>
template <class T, class X>
void phase(const GridTuple &grid, Tensor<X, 4> x, Tensor<const std::uint8_t, 4> support,
           Tensor<const T, 3> target, double total,
           const std::optional<Background<T>> &background,
           const std::vector<Round> &rounds, bool positive,
           const std::optional<std::array<double, 2>> &phase_bounds, Tensor<T, 1> work,
           Tensor<double, 2> sums, Tensor<double, 2> errors, Exec exec) {
  PhaseTask<T> task;
  task.grid = grid_of<T>(grid);
  require(task.grid.real == std::is_same_v<T, X>, "x must be real with a real grid");
  const std::array<std::int64_t, 3> voxels = {task.grid.n0, task.grid.n1, task.grid.n2};
  const auto fits = [&](const auto &shape) {
    return std::equal(voxels.begin(), voxels.end(), shape.begin() + 1);
  };
  task.n_seeds = x.shape[0];
  require(fits(x.shape), "x must be [S, n0, n1, n2]");
  require(fits(support.shape) &&
              (support.shape[0] == 1 || support.shape[0] == task.n_seeds),
          "support must be [S or 1, n0, n1, n2]");
  require(target.shape[0] == task.grid.n0 && target.shape[1] == task.grid.blocks() &&
              target.shape[2] == task.grid.lanes,
          "target must be [n0, blocks, lanes]");
  require(errors.shape[0] == task.n_seeds, "errors must be [S, n]");
  task.x = reinterpret_cast<T *>(x.data);
  task.support = support.data;
  task.support_stride = support.shape[0] == 1 ? 0 : task.grid.voxels();
  task.target = target.data;
  task.total = total;
  set_background(task, background);
  set_rounds(task, rounds);
  task.n_iterations = errors.shape[1];
  task.positive = positive;
  task.bounded = phase_bounds.has_value();
  task.low = task.bounded ? (*phase_bounds)[0] : 0.0;
  task.high = task.bounded ? (*phase_bounds)[1] : 0.0;
  task.errors = errors.data;
  const auto [n_work, n_sums] =
      scratch<T>(task.grid, task.n_seeds, task.n_shells, exec.threads);
  require(work.shape[0] >= n_work, "work must have phase_sizes' length");
  require(sums.shape[0] >= exec.threads && sums.shape[1] >= n_sums,
          "sums must be [threads, phase_sizes']");
  SPICORE_CALL(phase, exec, task, work.data, sums.data);
}

// (lanes, blocks of a plane, column blocks, values of work, doubles of sums)
template <class T>
std::array<std::int64_t, 5> sizes(const GridTuple &tuple, std::int64_t n_seeds,
                                  std::int64_t n_shells, int threads) {
  const PhaseGrid grid = grid_of<T>(tuple);
  const auto [n_work, n_sums] = scratch<T>(grid, n_seeds, n_shells, threads);
  return {grid.lanes, grid.blocks(), grid.column_blocks(), n_work, n_sums};
}

std::array<std::int64_t, 5> phase_sizes(const GridTuple &grid, bool is_double,
                                        std::int64_t n_seeds, std::int64_t n_shells,
                                        int threads) {
  return is_double ? sizes<double>(grid, n_seeds, n_shells, threads)
                   : sizes<float>(grid, n_seeds, n_shells, threads);
}

} // namespace

void spicore::bindings::add_phase(py::module_ &m) {
  m.def("phase_sizes", &phase_sizes);
  m.def("phase", &phase<float, float>);
  m.def("phase", &phase<float, std::complex<float>>);
  m.def("phase", &phase<double, double>);
  m.def("phase", &phase<double, std::complex<double>>);
}
