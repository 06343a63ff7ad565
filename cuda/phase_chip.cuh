// Phase retrieval on chip: a block has the spectrum of one seed in shared memory and does
// all iterations. What it reads of x, support and target comes from L2.
//
// Rows of real objects go in pairs 2 p and 2 p + 1, as real and imaginary parts of one
// transform z. Where both spectra are known from it, they take the places of z: with
// 0 < k < n2 / 2 the even row has that of frequency k, the odd row that of n2 - k.
// Frequencies 0 and n2 / 2 are real before the other axes are transformed: as 0 + i (n2 /
// 2) they are one column, with elements at the places of 0 (even rows) and n2 / 2 (odd
// rows); an odd n2 has an additional place for the latter.
#pragma once

#include <algorithm>

#include "launch.cuh"
#include "phase_math.cuh"

namespace spicore::cuda {

constexpr int kChipLeastThreads = 64, kChipMostThreads = 1024;
constexpr int kChipVoxels = 16; // of a thread, while there are threads

struct ChipPlan {
  LinePlan axis[3];
  int pitch;          // elements between rows, odd: neighbours do not share banks
  int rows, plane;    // rows in memory and elements of a plane
  int columns, edges; // frequencies of the last axis in columns
  int blocks;         // of a plane of the target
  int n_shells;       // and one more; 0 without a background
  Divisor by_lines, by_rows, by_columns, by_n1, by_n2;
  int threads;
  std::int64_t bytes;
  int turns[3], doubles, place[3], frequency[2], order; // offsets of a Chip

  SPI_HD int values() const { return axis[0].n * plane; }
};

// Sets where things lie in shared memory, in units of their own, and the bytes of all:
// values, turns of each axis, doubles, tables of 16 bits.
inline void lay_out_chip(ChipPlan &plan, std::int64_t value_size) {
  std::int64_t at = plan.values();
  for (int a = 0; a < 3; ++a) {
    plan.turns[a] = int(at);
    at += plan.axis[a].n;
  }
  plan.doubles = int(at * 2 * value_size / 8);
  at = 4 * (plan.doubles + plan.threads + 4 * plan.n_shells);
  for (int a = 0; a < 3; ++a) {
    plan.place[a] = int(at);
    at += plan.axis[a].n + 1;
  }
  for (int a = 0; a < 2; ++a) {
    plan.frequency[a] = int(at);
    at += plan.axis[a].n;
  }
  plan.order = int(at);
  plan.bytes = 2 * (at + plan.columns);
}

// Threads that `voxels` and the largest prime factor ask for.
inline int chip_threads(const ChipPlan &plan, std::int64_t voxels) {
  std::int64_t wanted = voxels / kChipVoxels;
  for (const LinePlan &axis : plan.axis)
    for (int i = 0; i < axis.n_stages; ++i)
      wanted = std::max<std::int64_t>(wanted, (axis.radix[i] + kOutputs - 1) / kOutputs);
  int threads = kChipLeastThreads;
  while (threads < wanted)
    threads *= 2;
  return threads;
}

// Returns whether a seed fits into `most_bytes`.
inline bool make_chip_plan(const PhaseGrid &grid, std::int64_t n_shells,
                           std::int64_t value_size, std::int64_t most_bytes,
                           ChipPlan &plan) {
  const std::int64_t row = (grid.n2 + (grid.real && grid.n2 % 2)) | 1;
  const std::int64_t rows = grid.real ? (grid.n1 + 1) / 2 : grid.n1;
  if (row > most_bytes || rows > most_bytes || grid.n0 > most_bytes ||
      2 * value_size * grid.n0 * rows * row > most_bytes)
    return false;
  plan.axis[0] = line_plan(int(grid.n0));
  plan.axis[1] = line_plan(int(grid.n1));
  plan.axis[2] = line_plan(int(grid.n2));
  plan.pitch = int(row);
  plan.rows = int(rows);
  plan.plane = int(rows * row);
  plan.columns = int(grid.columns());
  plan.edges = grid.has_edge();
  plan.blocks = int(grid.blocks());
  plan.by_lines = Divisor(int(grid.n0 * rows));
  plan.by_rows = Divisor(plan.rows);
  plan.by_columns = Divisor(plan.columns);
  plan.by_n1 = Divisor(int(grid.n1));
  plan.by_n2 = Divisor(int(grid.n2));
  plan.n_shells = n_shells > 0 ? int(n_shells + 1) : 0;
  plan.threads = chip_threads(plan, rows * row * grid.n0);
  lay_out_chip(plan, value_size);
  return plan.bytes <= most_bytes && plan.threads <= kChipMostThreads;
}

template <class T> struct ChipTask {
  PhaseTask<T> task;
  ChipPlan plan;
  Update<T> updates[2];
};

// The shared memory of a block. Pointers are made anew from its start where they are
// used: the compiler sees then that they are to shared memory.
template <class T> struct Chip {
  const ChipPlan &plan;

  __device__ Complex<T> *values() const { return dynamic_shared<Complex<T>>(); }
  __device__ Complex<T> *turns(int axis) const { return values() + plan.turns[axis]; }
  __device__ double *partial() const { return dynamic_shared<double>() + plan.doubles; }
  __device__ Shells shells() const {
    double *tables = partial() + plan.threads;
    const int n = plan.n_shells;
    return {tables, tables + n, tables + 2 * n, tables + 3 * n};
  }
  // Of a frequency; for the last axis also of the odd edge.
  __device__ std::uint16_t *place(int axis) const {
    return dynamic_shared<std::uint16_t>() + plan.place[axis];
  }
  // At a place, of the first two axes.
  __device__ std::uint16_t *frequency(int axis) const {
    return dynamic_shared<std::uint16_t>() + plan.frequency[axis];
  }
  // Columns, in the order of their places.
  __device__ std::uint16_t *order() const {
    return dynamic_shared<std::uint16_t>() + plan.order;
  }

  // Where odd rows have frequency k of a real object: that of the mate.
  __device__ int mate(int k) const {
    const int n = plan.axis[2].n;
    return place(2)[k > 0 ? n - k : plan.edges ? n / 2 : n];
  }

  __device__ int target_index(int i0, int i1, int k) const {
    return spectrum_index(plan.blocks, plan.columns, plan.axis[1].n, i0, i1, k);
  }

  // The elements along the second axis of frequency k in the plane from `first` on.
  template <bool real> __device__ Path column(int first, int k) const {
    const int even = first + place(2)[k];
    return real ? Path{even, first + mate(k), plan.pitch}
                : Path{even, even + plan.pitch, 2 * plan.pitch};
  }
};

// Lines along an axis.
template <class T, bool real> struct ChipLines {
  const Chip<T> &chip;
  int axis, count;

  __device__ ChipLines(const Chip<T> &c, int a) : chip(c), axis(a) {
    const ChipPlan &p = c.plan;
    count = a == 2 ? p.axis[0].n * p.rows : a == 1 ? p.axis[0].n * p.columns : p.plane;
  }

  __device__ Path at(int l) const {
    const ChipPlan &p = chip.plan;
    if (axis == 2)
      return {l * p.pitch, l * p.pitch + 1, 2};
    if (axis == 0)
      return {l, l + p.plane, 2 * p.plane};
    const int i0 = p.by_columns.quotient(l);
    return chip.template column<real>(i0 * p.plane,
                                      chip.order()[p.by_columns.rest(l, i0)]);
  }
};

// --- tables

template <class T> __device__ void make_tables(const Chip<T> &chip) {
  constexpr double turn = 6.283185307179586476925;
  for (int a = 0; a < 3; ++a) {
    const LinePlan &axis = chip.plan.axis[a];
    for (int k = threadIdx.x; k < axis.n; k += blockDim.x) {
      double s, c;
      sincos(turn * k / axis.n, &s, &c);
      chip.turns(a)[k] = {T(c), T(-s)};
      const int place = place_of(axis, k);
      chip.place(a)[k] = std::uint16_t(place);
      if (a < 2)
        chip.frequency(a)[place] = std::uint16_t(k);
    }
  }
  const int n = chip.plan.axis[2].n;
  if (threadIdx.x == 0)
    chip.place(2)[n] = std::uint16_t(n);
  __syncthreads();
  // The place of a column among those before it.
  for (int k = threadIdx.x; k < chip.plan.columns; k += blockDim.x) {
    int before = 0;
    for (int other = 0; other < chip.plan.columns; ++other)
      before += chip.place(2)[other] < chip.place(2)[k];
    chip.order()[before] = std::uint16_t(k);
  }
  __syncthreads();
}

// --- transforms

// Row spectra from those of pairs, and back.
template <class T, bool inverse> __device__ void separate_rows(const Chip<T> &chip) {
  const ChipPlan &p = chip.plan;
  const int lines = p.axis[0].n * p.rows;
  const T half = T(0.5);
  for (int t = threadIdx.x; t < lines * p.columns; t += blockDim.x) {
    const int k = p.by_lines.quotient(t);
    Complex<T> *line = chip.values() + p.by_lines.rest(t, k) * p.pitch;
    Complex<T> &even = line[chip.place(2)[k]], &odd = line[chip.mate(k)];
    const Complex<T> a = even, b = odd;
    if (k == 0) { // z(0), z(n2 / 2): the even row is the real parts of both
      const bool no_edge = !inverse && !p.edges;
      even = {a.r, no_edge ? T(0) : b.r};
      odd = {a.i, no_edge ? T(0) : b.i};
    } else if (inverse) {
      even = {a.r - b.i, a.i + b.r};
      odd = {a.r + b.i, b.r - a.i};
    } else {
      even = {(a.r + b.r) * half, (a.i - b.i) * half};
      odd = {(a.i + b.i) * half, (b.r - a.r) * half};
    }
  }
  __syncthreads();
}

template <class T, bool real> __device__ void forward(const Chip<T> &chip) {
#pragma unroll 1
  for (int a = 2; a >= 0; --a) {
    const Field<T> field = {chip.values(), chip.turns(a), chip.plan.axis[a].n};
    transform<T, false>(field, chip.plan.axis[a], ChipLines<T, real>(chip, a));
    if (real && a == 2)
      separate_rows<T, false>(chip);
  }
}

template <class T, bool real> __device__ void inverse(const Chip<T> &chip) {
#pragma unroll 1
  for (int a = 0; a < 3; ++a) {
    if (real && a == 2)
      separate_rows<T, true>(chip);
    const Field<T> field = {chip.values(), chip.turns(a), chip.plan.axis[a].n};
    transform<T, true>(field, chip.plan.axis[a], ChipLines<T, real>(chip, a));
  }
}

// --- the modulus

// Frequencies 0 and n2 / 2 of a real object, that are one column, at i and -i.
template <class T>
__device__ void project_packed(const Chip<T> &chip, ModulusStep<T> &step, int i0,
                               int i1) {
  const ChipPlan &p = chip.plan;
  const T half = T(0.5);
  const int m0 = i0 > 0 ? p.axis[0].n - i0 : 0, m1 = i1 > 0 ? p.axis[1].n - i1 : 0;
  const bool own = m0 == i0 && m1 == i1;
  const auto at = [&](int j0, int j1) -> Complex<T> & {
    const Path path = chip.template column<true>(chip.place(0)[j0] * p.plane, 0);
    return chip.values()[path(chip.place(1)[j1])];
  };
  // What has no Hermitian symmetry is left out, as by a transform to real numbers.
  const auto projected = [&](const Complex<T> &f, int k) -> Complex<T> {
    const Complex<T> a = step(f, chip.target_index(i0, i1, k), 1);
    if (own)
      return {a.r, T(0)};
    const Complex<T> b = step({f.r, -f.i}, chip.target_index(m0, m1, k), 1);
    return {(a.r + b.r) * half, (a.i - b.i) * half};
  };
  Complex<T> &here = at(i0, i1), &there = at(m0, m1);
  const Complex<T> a = here, b = there;
  const Complex<T> zero = projected({(a.r + b.r) * half, (a.i - b.i) * half}, 0);
  const Complex<T> edge =
      p.edges ? projected({(a.i + b.i) * half, (b.r - a.r) * half}, p.axis[2].n / 2)
              : Complex<T>{T(0), T(0)};
  here = {zero.r - edge.i, zero.i + edge.r};
  if (!own)
    there = {zero.r + edge.i, edge.r - zero.i};
}

template <class T>
__device__ void project_packed_column(const Chip<T> &chip, ModulusStep<T> &step) {
  const int n0 = chip.plan.axis[0].n, n1 = chip.plan.axis[1].n;
  for (int t = threadIdx.x; t < n0 * n1; t += blockDim.x) {
    const int i0 = chip.plan.by_n1.quotient(t), i1 = chip.plan.by_n1.rest(t, i0);
    const int mate = (i0 > 0 ? n0 - i0 : 0) * n1 + (i1 > 0 ? n1 - i1 : 0);
    if (t <= mate)
      project_packed(chip, step, i0, i1);
  }
}

template <class T, bool real>
__device__ void project_modulus(const Chip<T> &chip, ModulusStep<T> &step) {
  const ChipPlan &p = chip.plan;
  const int n1 = p.axis[1].n, first = real ? 1 : 0, columns = p.columns - first;
  const Divisor by_columns(columns);
  for (int t = threadIdx.x; t < p.axis[0].n * n1 * columns; t += blockDim.x) {
    const int line = by_columns.quotient(t), j0 = p.by_n1.quotient(line);
    const int k = chip.order()[first + by_columns.rest(t, line)]; // 0 comes first
    const int j1 = p.by_n1.rest(line, j0);
    Complex<T> &value = chip.values()[chip.template column<real>(j0 * p.plane, k)(j1)];
    const int at = chip.target_index(chip.frequency(0)[j0], chip.frequency(1)[j1], k);
    value = step(value, at, real ? 2 : 1);
  }
  if constexpr (real)
    project_packed_column(chip, step);
}

// --- the object

template <class T> struct ChipSeed {
  const PhaseTask<T> &task;
  const std::uint8_t *support;
  T *x;

  __device__ ChipSeed(const PhaseTask<T> &t, std::int64_t seed)
      : task(t), support(t.support + seed * t.support_stride),
        x(t.x + seed * t.grid.voxels() * (t.grid.real ? 1 : 2)) {}
};

// Calls body(element, voxel, next) for each element of the rows; next: whether a real
// object has a voxel in the row after, n2 on.
template <class T, bool real, class Body>
__device__ void for_elements(const Chip<T> &chip, const Body &body) {
  const ChipPlan &p = chip.plan;
  const int n1 = p.axis[1].n, n2 = p.axis[2].n;
  for (int t = threadIdx.x; t < p.axis[0].n * p.rows * n2; t += blockDim.x) {
    const int line = p.by_n2.quotient(t), i2 = p.by_n2.rest(t, line);
    const int i0 = p.by_rows.quotient(line);
    const int i1 = p.by_rows.rest(line, i0) * (real ? 2 : 1);
    body(line * p.pitch + i2, (i0 * n1 + i1) * n2 + i2, real && i1 + 1 < n1);
  }
  __syncthreads();
}

template <class T, bool real>
__device__ void load(const Chip<T> &chip, const ChipSeed<T> &seed) {
  for_elements<T, real>(chip, [&](int element, int voxel, bool next) {
    if constexpr (real)
      chip.values()[element] = {seed.x[voxel],
                                next ? seed.x[voxel + chip.plan.axis[2].n] : T(0)};
    else
      chip.values()[element] = reinterpret_cast<const Complex<T> *>(seed.x)[voxel];
  });
}

template <class T, bool real>
__device__ void update(const Chip<T> &chip, const ChipSeed<T> &seed, const Update<T> &u) {
  const int n2 = chip.plan.axis[2].n;
  for_elements<T, real>(chip, [&](int element, int voxel, bool next) {
    Complex<T> &value = chip.values()[element];
    if constexpr (real) {
      value.r = u(seed.x[voxel], value.r, seed.support[voxel] != 0);
      value.i =
          next ? u(seed.x[voxel + n2], value.i, seed.support[voxel + n2] != 0) : T(0);
    } else {
      Complex<T> &x = reinterpret_cast<Complex<T> *>(seed.x)[voxel];
      value = u(x, value, seed.support[voxel] != 0);
    }
  });
}

// --- iterations

template <class T> __device__ void clear_shells(const Chip<T> &chip) {
  for (int s = threadIdx.x; s < 4 * chip.plan.n_shells; s += blockDim.x)
    chip.shells().of_round[s] = 0.0;
  __syncthreads();
}

// The modulus of one round; `error` where it is asked for.
template <class T, bool real>
__device__ void modulus_round(const Chip<T> &chip, const PhaseTask<T> &task,
                              std::int64_t seed, int r, double *error) {
  ModulusStep<T> step(task, task.background_rounds[r], seed, chip.shells());
  project_modulus<T, real>(chip, step);
  __syncthreads();
  const double total = block_sum(chip.partial(), step.error);
  if (error && threadIdx.x == 0)
    *error = total / task.total;
  for (int s = threadIdx.x; s < chip.plan.n_shells; s += blockDim.x)
    average_shell(chip.shells(), s, task.shell_weight[s], step.round);
  __syncthreads();
}

// Adds what is pending to the stored background.
template <class T>
__device__ void finish_background(const Chip<T> &chip, const PhaseTask<T> &task,
                                  std::int64_t seed) {
  const std::int64_t n = task.grid.n0 * task.grid.blocks() * task.grid.lanes;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x)
    task.background[seed * n + i] += T(chip.shells().of_value[task.shell[i]]);
}

template <class T, bool real>
__device__ void do_seed(const Chip<T> &chip, const ChipTask<T> &chip_task,
                        std::int64_t number) {
  const PhaseTask<T> &task = chip_task.task;
  const ChipSeed<T> seed(task, number);
  clear_shells(chip);
  load<T, real>(chip, seed);
  const std::int64_t n_rounds = task.n_iterations * task.n_rounds;
  for (std::int64_t i = 0; i < n_rounds; ++i) {
    const int r = int(i % task.n_rounds);
    double *errors = task.errors + number * task.n_iterations + i / task.n_rounds;
    forward<T, real>(chip);
    modulus_round<T, real>(chip, task, number, r, r == 0 ? errors : nullptr);
    inverse<T, real>(chip);
    update<T, real>(chip, seed, chip_task.updates[r]);
  }
  if (task.background && task.background_rounds[0].pending)
    finish_background(chip, task, number);
  __syncthreads(); // all are done with the memory of this seed
}

template <class T, bool real>
__global__ void __launch_bounds__(kChipMostThreads)
    chip_kernel(const __grid_constant__ ChipTask<T> chip_task) {
  const Chip<T> chip = {chip_task.plan};
  make_tables(chip);
  for (std::int64_t s = blockIdx.x; s < chip_task.task.n_seeds; s += gridDim.x)
    do_seed<T, real>(chip, chip_task, s);
}

template <class T>
void run_on_chip(const Exec &exec, const PhaseTask<T> &task, const ChipPlan &plan) {
  ChipTask<T> chip_task = {task, plan, {}};
  for (int r = 0; r < task.n_rounds; ++r)
    chip_task.updates[r] = Update<T>(task, task.rounds[r]);
  const unsigned grid = blocks(task.n_seeds, 1);
  launch(exec, "phase", task.grid.real ? chip_kernel<T, true> : chip_kernel<T, false>,
         grid, unsigned(plan.threads), std::size_t(plan.bytes), chip_task);
}

} // namespace spicore::cuda
