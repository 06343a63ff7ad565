#pragma once

#include <cstdint>

#include "spicore/exec.hpp"
#include "spicore/host_device.hpp"

namespace spicore {

// An object of n0 x n1 x n2 voxels and its spectrum. Frequencies lie in planes of equal
// first index, in blocks of `lanes` side by side: column blocks [ceil(C / lanes)][n1], of
// frequencies block * lanes + lane of the last axis, then, for a real object with even
// n2, edge blocks [ceil(n1 / lanes)] of frequency n2 / 2, side by side along the second
// axis.
struct PhaseGrid {
  std::int64_t n0, n1, n2;
  bool real;
  int lanes; // of the instruction set and precision: phase_lanes

  SPI_HD bool has_edge() const { return real && n2 % 2 == 0; }
  // C: frequencies of the last axis that are in columns.
  SPI_HD std::int64_t columns() const {
    return !real ? n2 : has_edge() ? n2 / 2 : (n2 + 1) / 2;
  }
  SPI_HD std::int64_t column_blocks() const {
    return (columns() + lanes - 1) / lanes * n1;
  }
  SPI_HD std::int64_t blocks() const { // of a plane
    return column_blocks() + (has_edge() ? (n1 + lanes - 1) / lanes : 0);
  }
  SPI_HD std::int64_t voxels() const { return n0 * n1 * n2; }
};

// One pair of transforms: with p = P_M applied to the spectrum, x := a x + b p + c P_S(d
// x + e p), and the next spectrum is that of the new x, or where `from_old` that of f x +
// g P_S x with the x before.
struct PhaseRound {
  double a, b, c, d, e, f, g;
  bool from_old;
};

// The background along with a round, from its stored value s and two tables over shells:
// B = f s + g table2, then s := keep s + a B + b M B + h table1, M the scale of P_M. The
// shell means of d B + e M B and of B, at least 0, replace table1 and table2, or, where
// `pending`, c times the first replaces table2.
struct BackgroundRound {
  double f, g, keep, a, b, h, d, e, c;
  bool pending;
};

template <class T> struct PhaseTask {
  PhaseGrid grid;
  std::int64_t n_seeds;
  T *x;                        // [S, n0, n1, n2] real, or complex as (re, im)
  const std::uint8_t *support; // [S or 1, n0, n1, n2], 0 outside
  std::int64_t support_stride; // voxels between seeds, 0 where one is for all
  const T *target;             // [n0, blocks, lanes] amplitude; where not measured minus
                               // the limit, -inf for none and for lanes past the last
  double total;                // sum of the amplitude over the spectrum
  T *background;               // [S, n0, blocks, lanes], or null
  const std::int32_t *shell;   // [n0, blocks, lanes], n_shells past the last lane
  const double *shell_weight;  // [n_shells + 1] 1 / frequencies in a shell
  std::int64_t n_shells;
  PhaseRound rounds[2]; // of an iteration
  BackgroundRound background_rounds[2];
  int n_rounds; // 1 or 2
  std::int64_t n_iterations;
  bool positive;
  bool bounded;     // complex objects: P_S keeps phases from `low` to `high` only
  double low, high; // radians
  double *errors;   // [S, n_iterations] R factors
};

constexpr std::int64_t kPhaseGroup = 4;          // blocks that are transformed in one go
constexpr std::int64_t kPhaseChunkVoxels = 4096; // at least, of a chunk of blocks
constexpr std::int64_t kPhaseMostChunks = 256;
// Voxels of a seed that one thread does alone, at most.
constexpr std::int64_t kPhaseSeedVoxels = 1 << 17;

// Whether a thread does whole seeds. Results are the same.
static inline bool phase_by_seed(const PhaseGrid &grid, std::int64_t n_seeds,
                                 int threads) {
  return n_seeds >= threads && grid.voxels() <= kPhaseSeedVoxels;
}

// Chunks of blocks, each with its own sums.
static inline std::int64_t phase_chunks(const PhaseGrid &grid) {
  const std::int64_t groups = (grid.blocks() + kPhaseGroup - 1) / kPhaseGroup;
  const std::int64_t most = grid.voxels() / kPhaseChunkVoxels;
  const std::int64_t n = most < kPhaseMostChunks ? most : kPhaseMostChunks;
  return n < 1 ? 1 : n < groups ? n : groups;
}

// Values between planes of a spectrum: an odd multiple of 256 bytes, so that the planes
// of a line spread over the sets of a cache.
static inline std::int64_t phase_plane(const PhaseGrid &grid, std::int64_t value_size) {
  const std::int64_t quarter = 256 / value_size;
  const std::int64_t n = (grid.blocks() * 2 * grid.lanes + quarter - 1) / quarter;
  return (n | 1) * quarter;
}

struct PhaseWorkspace { // in values, from the start
  std::int64_t plans, spectra, spectrum, scratch, scratch_stride, size;
};

static inline PhaseWorkspace phase_workspace(const PhaseGrid &grid, std::int64_t n_seeds,
                                             int threads, std::int64_t value_size) {
  const std::int64_t n_most = grid.n0 > grid.n1 ? grid.n0 : grid.n1;
  const std::int64_t longest = n_most > grid.n2 ? n_most : grid.n2;
  const std::int64_t step = 2 * grid.lanes;
  PhaseWorkspace at;
  at.plans = 0;
  at.spectra = (14 * (grid.n0 + grid.n1 + grid.n2) + 63) / 64 * 64;
  at.spectrum = grid.n0 * phase_plane(grid, value_size);
  at.scratch =
      at.spectra + at.spectrum * (phase_by_seed(grid, n_seeds, threads) ? threads : 1);
  // two lines of whole vectors, and what a transform needs
  at.scratch_stride = (2 * (longest + grid.lanes) + 6 * longest + 2) * step;
  at.size = at.scratch + threads * at.scratch_stride;
  return at;
}

// Doubles: of each seed that is in work errors of chunks, and with a background sums and
// tables over shells.
static inline std::int64_t phase_sums(const PhaseGrid &grid, std::int64_t n_shells) {
  return phase_chunks(grid) * (1 + 2 * (n_shells + 1)) + 2 * (n_shells + 1);
}

} // namespace spicore

// n_iterations of phase retrieval on each seed, in place. Results do not depend on the
// number of threads.
//
//   work  [phase_workspace(grid, n_seeds, threads, sizeof(T)).size] scratch, best aligned
//         to 256 bytes
//   sums  [threads, phase_sums(grid, n_shells)] scratch
//
// phase_lanes: lanes of float and double vectors, for PhaseGrid; of the CPU only.
//
// On CUDA lanes is grid.columns(), all arrays are on the GPU, scratch is that of
// cuda/phase_workspace.hpp, and the last round must not be from_old.
SPICORE_OPERATION(phase, const Exec &exec, const PhaseTask<float> &task, float *work,
                  double *sums)
SPICORE_OPERATION(phase, const Exec &exec, const PhaseTask<double> &task, double *work,
                  double *sums)
SPICORE_OPERATION(phase_lanes, int *of_float, int *of_double)
