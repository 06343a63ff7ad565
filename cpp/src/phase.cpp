#include "spicore/phase.hpp"

#include <algorithm>
#include <limits>

#include "line_fft.hpp"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
static int omp_get_num_threads() { return 1; }
#endif

// Two passes over memory an iteration. Pass A takes blocks of lines along the first axis
// through transform, modulus and inverse; pass B takes planes through the inverse along
// the other axes, the update of x, and the transform of what comes next. A spectrum in
// memory is thus transformed along the last two axes only.
//
// From the modulus to the update real and imaginary parts are exchanged, which makes
// every transform between the two an inverse.
//
// Along the last axis the lanes are rows: blocks are transposed on the way. Rows of real
// objects go in pairs, as real and imaginary parts of one transform.

namespace spicore::cpu::SPICORE_SIMD {
namespace {

template <class T> SPICORE_INLINE Vector<T> all(T value) { return Vector<T>{} + value; }

template <class T> SPICORE_INLINE Vector<T> square_root(const Vector<T> &v) {
  T a[lanes_of<T>];
  std::memcpy(a, &v, sizeof v);
  for (T &x : a)
    x = std::sqrt(x);
  return load<T>(a);
}

template <class V> SPICORE_INLINE V larger(const V &a, const V &b) {
  return a > b ? a : b;
}
template <class V> SPICORE_INLINE V smaller(const V &a, const V &b) {
  return a < b ? a : b;
}

template <class T> SPICORE_INLINE Complex<T> exchanged(const Complex<T> &v) {
  return {v.i, v.r};
}

template <class T> T sum_of(const Vector<T> &v) {
  T total = 0;
  for (int l = 0; l < lanes_of<T>; ++l)
    total += v[l];
  return total;
}

// What all threads share in a call.
template <class T> struct Job {
  static constexpr int V = lanes_of<T>;

  const PhaseTask<T> &task;
  const PhaseGrid &grid;
  PhaseWorkspace at;
  std::int64_t plane; // values between planes
  LinePlan<T> first, second, third;
  T *work;

  Job(const Exec &exec, const PhaseTask<T> &t, T *memory)
      : task(t), grid(t.grid),
        at(phase_workspace(grid, t.n_seeds, exec.threads, sizeof(T))),
        plane(phase_plane(grid, sizeof(T))), first(grid.n0, memory),
        second(grid.n1, memory + plan_size<T>(grid.n0)),
        third(grid.n2, memory + plan_size<T>(grid.n0 + grid.n1)), work(memory) {}

  // Planes that pass B does together: enough for full vectors of rows.
  std::int64_t planes_together() const {
    const std::int64_t rows = (grid.real ? 2 : 1) * V;
    return std::min(grid.n0, (rows + grid.n1 - 1) / grid.n1);
  }
};

// One thread's part in one seed. Threads of a team share the spectrum and the sums.
template <class T> struct Worker {
  static constexpr int V = lanes_of<T>;

  const Job<T> &job;
  std::int64_t seed;
  T *spectrum;
  double *sums;
  int thread, team;

  T *scratch;  // of transforms
  T *lines[2]; // [longest + V] elements

  Worker(const Job<T> &shared, std::int64_t s, T *spectrum_, double *sums_, int thread_,
         int team_, int number)
      : job(shared), seed(s), spectrum(spectrum_), sums(sums_), thread(thread_),
        team(team_) {
    const PhaseGrid &grid = job.grid;
    const std::int64_t longest = std::max({grid.n0, grid.n1, grid.n2});
    T *own = job.work + job.at.scratch + number * job.at.scratch_stride;
    lines[0] = own;
    lines[1] = own + (longest + V) * 2 * V;
    scratch = own + (longest + V) * 4 * V;
  }

  // Calls body(i) for all i below n, shared out among the team, and waits for its others.
  template <class Body> void for_each(std::int64_t n, const Body &body) const {
    if (team == 1) {
      for (std::int64_t i = 0; i < n; ++i)
        body(i);
      return;
    }
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < n; ++i)
      body(i);
  }

  Line<T> line(int which) const { return {lines[which], 2 * V}; }

  // Sums over shells, one more for lanes past the last.
  std::int64_t shells() const { return job.task.n_shells + 1; }
  double *table(int which) const { return sums + which * shells(); }
  double *shell_sums(std::int64_t chunk) const {
    return sums + (2 + 2 * chunk) * shells();
  }
  double *errors() const { return shell_sums(phase_chunks(job.grid)); } // [chunks]
};

// --- pass A: the modulus

// One vector of the background in P_M.
template <class T> class BackgroundVector {
public:
  BackgroundVector(const Worker<T> &worker, const BackgroundRound &round, std::int64_t at)
      : round_(round), worker_(worker), shell_(worker.job.task.shell + at * V),
        stored_(worker.job.task.background +
                (worker.seed * worker.job.grid.n0 * worker.job.grid.blocks() + at) * V) {
    const double *table = worker.table(1);
    for (int l = 0; l < V; ++l)
      value_[l] = T(round.f * stored_[l] + round.g * table[shell_[l]]);
  }

  Vector<T> square() const { return load<T>(value_) * load<T>(value_); }

  void scale(const Vector<T> &by, const Vector<T> &weight, std::int64_t chunk) const {
    const double *table = worker_.table(0);
    double *of_round = worker_.shell_sums(chunk), *of_value = of_round + worker_.shells();
    for (int l = 0; l < V; ++l) {
      const double b = value_[l], mb = b * by[l];
      stored_[l] = T(round_.keep * stored_[l] + round_.a * b + round_.b * mb +
                     round_.h * table[shell_[l]]);
      of_round[shell_[l]] += weight[l] * (round_.d * b + round_.e * mb);
      of_value[shell_[l]] += weight[l] * b;
    }
  }

private:
  static constexpr int V = lanes_of<T>;
  const BackgroundRound &round_;
  const Worker<T> &worker_;
  const std::int32_t *shell_;
  T *stored_;
  T value_[V];
};

// P_M on n vectors of the spectrum, exchanged on the way out; blocks at, at + step, ...
// of target. Returns sum weight ||F| - A| over what is measured. weight: frequencies that
// a lane stands for.
template <class T, bool with_background>
double project_modulus(const Worker<T> &worker, const BackgroundRound &round,
                       const Line<T> &data, std::int64_t at, std::int64_t step,
                       std::int64_t n, const Vector<T> &weight, std::int64_t chunk) {
  const Vector<T> one = all<T>(1), none = {};
  const Vector<T> tiny = all(std::numeric_limits<T>::min()); // |F|^2 below has no phase
  const T norm = T(1.0 / double(worker.job.grid.voxels()));
  Vector<T> error = {};
  for (std::int64_t j = 0; j < n; ++j) {
    const std::int64_t block = at + j * step;
    const Complex<T> f = data.get(j);
    const Vector<T> a = load<T>(worker.job.task.target + block * lanes_of<T>);
    Vector<T> square = f.r * f.r + f.i * f.i;
    const auto scaled = [&](const Vector<T> &length) {
      const Vector<T> ratio = larger(a, -a) / length;
      const Vector<T> scale = a < none ? smaller(ratio, one) : ratio;
      return square < tiny ? none : scale;
    };
    Vector<T> length, scale;
    if constexpr (with_background) {
      const BackgroundVector<T> background(worker, round, block);
      square += background.square();
      length = square_root<T>(square);
      scale = scaled(length);
      background.scale(scale, weight, chunk);
    } else {
      length = square_root<T>(square);
      scale = scaled(length);
    }
    const Vector<T> instead = square < tiny ? larger(a, none) : none;
    data.set(j, {f.i * scale * norm, (f.r * scale + instead) * norm});
    const Vector<T> off = length - a;
    error += a < none ? none : larger(off, -off);
  }
  return sum_of<T>(error * weight);
}

// Frequencies that the lanes of a block stand for: of real objects two, but for the first
// of the last axis and n2 / 2, which are their own mates or have them elsewhere.
template <class T> Vector<T> weight_of(const PhaseGrid &grid, std::int64_t block) {
  if (!grid.real || block >= grid.column_blocks())
    return all<T>(1);
  Vector<T> weight = all<T>(2);
  if (block < grid.n1)
    weight[0] = T(1);
  return weight;
}

// Blocks first .. last - 1 where the first axis has one plane: nothing to transform.
template <class T, bool with_background>
double pass_flat(const Worker<T> &worker, const BackgroundRound &round,
                 std::int64_t first, std::int64_t last, std::int64_t chunk) {
  constexpr int V = lanes_of<T>;
  constexpr std::int64_t kRun = 128; // vectors summed in the precision of T
  const PhaseGrid &grid = worker.job.grid;
  double error = 0.0;
  for (std::int64_t b = first; b < last;) {
    std::int64_t end = std::min(last, b + kRun);
    for (const std::int64_t edge : {grid.n1, grid.column_blocks()})
      if (b < edge)
        end = std::min(end, edge);
    T *data = worker.spectrum + b * 2 * V;
    error += project_modulus<T, with_background>(worker, round, {data, 2 * V}, b, 1,
                                                 end - b, weight_of<T>(grid, b), chunk);
    b = end;
  }
  return error;
}

SPICORE_INLINE void prefetch(const void *first, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64)
    __builtin_prefetch(static_cast<const char *>(first) + at);
}

// Asks for a part of what the next group of blocks needs: its lines are too far apart for
// the processor to foresee.
template <class T>
void prefetch_group(const Worker<T> &worker, std::int64_t block, std::int64_t part) {
  const Job<T> &job = worker.job;
  constexpr std::int64_t values = kPhaseGroup * lanes_of<T>;
  const std::int64_t n = job.grid.n0, blocks = job.grid.blocks();
  for (std::int64_t i = n * part / kPhaseGroup; i < n * (part + 1) / kPhaseGroup; ++i) {
    prefetch(worker.spectrum + i * job.plane + block * 2 * lanes_of<T>,
             2 * values * std::int64_t(sizeof(T)));
    prefetch(job.task.target + (i * blocks + block) * lanes_of<T>,
             values * std::int64_t(sizeof(T)));
  }
}

template <class T, bool with_background>
double pass_lines(const Worker<T> &worker, const BackgroundRound &round,
                  std::int64_t first, std::int64_t last, std::int64_t chunk) {
  constexpr int V = lanes_of<T>;
  const Job<T> &job = worker.job;
  double error = 0.0;
  for (std::int64_t b = first; b < last; ++b) {
    const std::int64_t group = b / kPhaseGroup * kPhaseGroup;
    if (group + 2 * kPhaseGroup <= job.grid.blocks())
      prefetch_group(worker, group + kPhaseGroup, b - group);
    T *data = worker.spectrum + b * 2 * V;
    const Line<T> in_memory = {data, job.plane}, line = worker.line(0);
    job.first(in_memory, line, worker.scratch);
    error += project_modulus<T, with_background>(worker, round, line, b,
                                                 job.grid.blocks(), job.grid.n0,
                                                 weight_of<T>(job.grid, b), chunk);
    job.first(line, in_memory, worker.scratch);
  }
  return error;
}

template <class T, bool with_background>
double pass_blocks(const Worker<T> &worker, const BackgroundRound &round,
                   std::int64_t first, std::int64_t last, std::int64_t chunk) {
  return worker.job.grid.n0 == 1
             ? pass_flat<T, with_background>(worker, round, first, last, chunk)
             : pass_lines<T, with_background>(worker, round, first, last, chunk);
}

template <class T> void pass_a(const Worker<T> &worker, const BackgroundRound &round) {
  const PhaseGrid &grid = worker.job.grid;
  const std::int64_t n_chunks = phase_chunks(grid);
  const std::int64_t groups = (grid.blocks() + kPhaseGroup - 1) / kPhaseGroup;
  const bool with_background = worker.job.task.background;
  worker.for_each(n_chunks, [&](std::int64_t c) {
    const std::int64_t first = groups * c / n_chunks * kPhaseGroup;
    const std::int64_t last =
        std::min(groups * (c + 1) / n_chunks * kPhaseGroup, grid.blocks());
    if (with_background) {
      double *of_chunk = worker.shell_sums(c);
      std::fill(of_chunk, of_chunk + 2 * worker.shells(), 0.0);
    }
    worker.errors()[c] = with_background
                             ? pass_blocks<T, true>(worker, round, first, last, c)
                             : pass_blocks<T, false>(worker, round, first, last, c);
  });
}

// Adds up what the chunks found, always in the same order: the R factor, and the shell
// means of the background.
template <class T>
void reduce(const Worker<T> &worker, const BackgroundRound &round, double *error) {
  const PhaseTask<T> &task = worker.job.task;
  const std::int64_t n_chunks = phase_chunks(worker.job.grid);
  if (error) {
    *error = 0.0;
    for (std::int64_t c = 0; c < n_chunks; ++c)
      *error += worker.errors()[c];
    *error /= task.total;
  }
  if (!task.background)
    return;
  for (std::int64_t s = 0; s < worker.shells(); ++s) {
    double mean[2] = {};
    for (std::int64_t c = 0; c < n_chunks; ++c)
      for (int i = 0; i < 2; ++i)
        mean[i] += worker.shell_sums(c)[i * worker.shells() + s];
    for (double &m : mean)
      m = std::max(m * task.shell_weight[s], 0.0);
    worker.table(0)[s] = mean[0];
    worker.table(1)[s] = round.pending ? round.c * mean[0] : mean[1];
  }
}

// Adds what is pending to the stored background.
template <class T> void finish_background(const Worker<T> &worker) {
  const Job<T> &job = worker.job;
  const std::int64_t n = job.grid.blocks() * lanes_of<T>;
  T *stored = job.task.background + worker.seed * job.grid.n0 * n;
  worker.for_each(job.grid.n0, [&](std::int64_t plane) {
    for (std::int64_t i = plane * n; i < (plane + 1) * n; ++i)
      stored[i] += T(worker.table(1)[job.task.shell[i]]);
  });
}

// --- pass B: rows

// What becomes of the rows of a plane between their transforms.
enum class Step {
  begin,   // the spectrum of x, as it is
  simple,  // a = d = 0: x is not read
  full,    // all terms
  from_old // and the next spectrum is of the x before
};

template <class T> struct Update {
  T a, b, c, d, e, f, g;
  T least; // inside: 0 or -inf
  bool positive, bounded, wide;
  T low_r, low_i, high_r, high_i; // directions of the phase bounds

  Update(const PhaseTask<T> &task, const PhaseRound &round)
      : a(T(round.a)), b(T(round.b)), c(T(round.c)), d(T(round.d)), e(T(round.e)),
        f(T(round.f)), g(T(round.g)),
        least(task.positive ? T(0) : -std::numeric_limits<T>::infinity()),
        positive(task.positive), bounded(task.bounded),
        wide(task.high - task.low > 3.141592653589793), low_r(T(std::cos(task.low))),
        low_i(T(std::sin(task.low))), high_r(T(std::cos(task.high))),
        high_i(T(std::sin(task.high))) {}

  // P_S of a real or a complex value.
  template <class Mask>
  SPICORE_INLINE Vector<T> project(const Vector<T> &v, const Mask &inside) const {
    return inside ? larger(v, all(least)) : Vector<T>{};
  }
  template <class Mask>
  SPICORE_INLINE Complex<T> project(const Complex<T> &v, const Mask &inside) const {
    Complex<T> p = {inside ? v.r : Vector<T>{}, inside ? v.i : Vector<T>{}};
    if (positive)
      return {larger(p.r, Vector<T>{}), Vector<T>{}};
    if (bounded) {
      const auto past_low = low_r * p.i - low_i * p.r >= Vector<T>{};
      const auto before_high = high_i * p.r - high_r * p.i >= Vector<T>{};
      const auto good = wide ? (past_low | before_high) : (past_low & before_high);
      p = {good ? p.r : Vector<T>{}, good ? p.i : Vector<T>{}};
    }
    return p;
  }
};

template <class T>
SPICORE_INLINE Vector<T> sum(T a, const Vector<T> &x, T b, const Vector<T> &y) {
  return a * x + b * y;
}
template <class T>
SPICORE_INLINE Complex<T> sum(T a, const Complex<T> &x, T b, const Complex<T> &y) {
  return {a * x.r + b * y.r, a * x.i + b * y.i};
}

// Vectors of one row of x, whole or the first `n` lanes of one.
template <class T, bool real> struct Row;

template <class T> struct Row<T, true> {
  using Value = Vector<T>;
  static SPICORE_INLINE Value get(const T *p) { return load<T>(p); }
  static SPICORE_INLINE void set(T *p, const Value &v) { store<T>(p, v); }
};

template <class T> struct Row<T, false> {
  static constexpr int V = lanes_of<T>;
  using Value = Complex<T>;
  template <int... l>
  static SPICORE_INLINE Value split(const Vector<T> &a, const Vector<T> &b,
                                    std::integer_sequence<int, l...>) {
    return {__builtin_shufflevector(a, b, (2 * l)...),
            __builtin_shufflevector(a, b, (2 * l + 1)...)};
  }
  template <int... l>
  static SPICORE_INLINE void join(T *p, const Value &v,
                                  std::integer_sequence<int, l...>) {
    store<T>(p, __builtin_shufflevector(v.r, v.i, (l % 2 * V + l / 2)...));
    store<T>(p + V, __builtin_shufflevector(v.r, v.i, (l % 2 * V + (l + V) / 2)...));
  }
  static SPICORE_INLINE Value get(const T *p) {
    return split(load<T>(p), load<T>(p + V), std::make_integer_sequence<int, V>{});
  }
  static SPICORE_INLINE void set(T *p, const Value &v) {
    join(p, v, std::make_integer_sequence<int, V>{});
  }
};

// Numbers of the width of T; GCC makes one instruction of the loop, not of a conversion.
template <class T>
SPICORE_INLINE typename Native<T>::mask widened(const std::uint8_t *bytes) {
  typename Native<T>::integer values[lanes_of<T>];
  for (int l = 0; l < lanes_of<T>; ++l)
    values[l] = bytes[l];
  typename Native<T>::mask result;
  std::memcpy(&result, values, sizeof result);
  return result;
}

// One vector of a row: x := what the round makes of it and p, p := what is transformed
// next.
template <class T, bool real, Step step>
SPICORE_INLINE void update_vector(const Update<T> &u, const std::uint8_t *support, T *x,
                                  typename Row<T, real>::Value &p) {
  using R = Row<T, real>;
  if constexpr (step == Step::begin) {
    p = R::get(x);
    return;
  }
  const auto inside = widened<T>(support) != 0;
  typename R::Value y;
  if constexpr (step == Step::simple) {
    y = sum(u.b, p, u.c * u.e, u.project(p, inside));
    p = y;
  } else {
    const auto old = R::get(x);
    y = sum(T(1), sum(u.a, old, u.b, p), u.c, u.project(sum(u.d, old, u.e, p), inside));
    if constexpr (step == Step::from_old)
      p = sum(u.f, old, u.g, u.project(old, inside));
    else
      p = y;
  }
  R::set(x, y);
}

// The same for the first n lanes of a vector.
template <class T, bool real, Step step>
void update_part(const Update<T> &u, const std::uint8_t *support, T *x, int n,
                 typename Row<T, real>::Value &p) {
  constexpr int V = lanes_of<T>, per_voxel = real ? 1 : 2;
  T part[per_voxel * V] = {};
  std::uint8_t inside[V] = {};
  std::copy(x, x + n * per_voxel, part);
  std::copy(support, support + n, inside);
  update_vector<T, real, step>(u, inside, part, p);
  std::copy(part, part + n * per_voxel, x);
}

template <class T> SPICORE_INLINE void transpose(Complex<T> *block) {
  constexpr int V = lanes_of<T>;
  Vector<T> part[V];
  unrolled<V>([&](auto l) { part[l] = block[l].r; });
  transpose<T>(part);
  unrolled<V>([&](auto l) { block[l].r = part[l], part[l] = block[l].i; });
  transpose<T>(part);
  unrolled<V>([&](auto l) { block[l].i = part[l]; });
}

// Rows of planes that pass B has in its hands: up to V, of real objects up to 2 V.
template <class T> struct Rows {
  static constexpr int V = lanes_of<T>;
  T *x;
  const std::uint8_t *support;
  T *spectrum[2 * V]; // first column block of each row
  int n;
};

// V voxels, from i2 on, of V rows, from number r0 on, through the update; in and out one
// vector per voxel.
template <class T, bool real, Step step>
SPICORE_INLINE void update_block(const Worker<T> &worker, const Update<T> &u,
                                 const Rows<T> &rows, int r0, std::int64_t i2,
                                 typename Row<T, real>::Value *block) {
  constexpr int V = lanes_of<T>, per_voxel = real ? 1 : 2;
  const std::int64_t n2 = worker.job.grid.n2;
  const int n = int(std::min<std::int64_t>(V, n2 - i2));
  if constexpr (step != Step::begin)
    transpose<T>(block);
  const std::int64_t first = r0 * n2 + i2;
  if (n == V && rows.n - r0 >= V)
    unrolled<V>([&](auto r) {
      const std::int64_t at = first + r * n2;
      update_vector<T, real, step>(u, rows.support + at, rows.x + at * per_voxel,
                                   block[r]);
    });
  else
    for (int r = 0; r < std::min(V, rows.n - r0); ++r) {
      const std::int64_t at = first + r * n2;
      update_part<T, real, step>(u, rows.support + at, rows.x + at * per_voxel, n,
                                 block[r]);
    }
  transpose<T>(block);
}

// The first V rows of real objects are the imaginary parts of the line: exchanged.
template <class T, bool real, Step step>
void update_rows(const Worker<T> &worker, const Update<T> &u, const Rows<T> &rows,
                 const Line<T> &line) {
  constexpr int V = lanes_of<T>;
  // The rows to come, a part with each block: in memory they follow these.
  constexpr std::int64_t together = (real ? 2 : 1) * V;
  const std::int64_t n2 = worker.job.grid.n2, voxels = V * together;
  const T *next = rows.x + together * n2 * (real ? 1 : 2);
  const std::uint8_t *next_support = rows.support + together * n2;
  for (std::int64_t i2 = 0; i2 < n2; i2 += V) {
    prefetch(next + i2 * together * (real ? 1 : 2), voxels * (real ? 1 : 2) * sizeof(T));
    prefetch(next_support + i2 * together, voxels);
    const Line<T> at = line.at(i2);
    if constexpr (real) {
      for (const int half : {0, 1}) {
        Vector<T> block[V];
        T *part = at.p + (half ? 0 : V);
        unrolled<V>([&](auto l) {
          block[l] = step == Step::begin ? Vector<T>{} : load<T>(part + l * at.step);
        });
        update_block<T, true, step>(worker, u, rows, half * V, i2, block);
        unrolled<V>([&](auto l) { store<T>(part + l * at.step, block[l]); });
      }
    } else {
      Complex<T> block[V];
      unrolled<V>([&](auto l) {
        block[l] = step == Step::begin ? Complex<T>{} : exchanged(at.get(l));
      });
      update_block<T, false, step>(worker, u, rows, 0, i2, block);
      unrolled<V>([&](auto l) { at.set(l, block[l]); });
    }
  }
}

// --- pass B: rows to and from their spectra

// Column block `block` of V rows, transposed: element l is frequency l of all rows.
template <class T>
SPICORE_INLINE void get_block(const Worker<T> &worker, const Rows<T> &rows, int r0,
                              std::int64_t block, Complex<T> *values) {
  constexpr int V = lanes_of<T>;
  const std::int64_t at = block * worker.job.grid.n1 * 2 * V;
  for (int r = 0; r < V; ++r)
    values[r] = r0 + r < rows.n ? Complex<T>{load<T>(rows.spectrum[r0 + r] + at),
                                             load<T>(rows.spectrum[r0 + r] + at + V)}
                                : Complex<T>{};
  transpose(values);
}

template <class T>
SPICORE_INLINE void set_block(const Worker<T> &worker, const Rows<T> &rows, int r0,
                              std::int64_t block, Complex<T> *values) {
  constexpr int V = lanes_of<T>;
  const std::int64_t at = block * worker.job.grid.n1 * 2 * V;
  transpose(values);
  for (int r = 0; r < std::min(V, rows.n - r0); ++r) {
    store<T>(rows.spectrum[r0 + r] + at, values[r].r);
    store<T>(rows.spectrum[r0 + r] + at + V, values[r].i);
  }
}

// Spectra of rows to a line, both exchanged, whose inverse is u + i v for real rows: u
// the first V of them, v the others. Frequency 0 of an even length has n2 / 2 as its
// imaginary part.
template <class T, bool real>
void spectra_to_line(const Worker<T> &worker, const Rows<T> &rows, const Line<T> &line) {
  constexpr int V = lanes_of<T>;
  const PhaseGrid &grid = worker.job.grid;
  const std::int64_t columns = grid.columns();
  for (std::int64_t first = 0; first < columns; first += V) {
    const int n = int(std::min<std::int64_t>(V, columns - first));
    Complex<T> u[V], v[V];
    get_block(worker, rows, 0, first / V, u);
    if constexpr (!real) {
      for (int l = 0; l < n; ++l)
        line.set(first + l, u[l]);
      continue;
    }
    get_block(worker, rows, V, first / V, v);
    int l = 0;
    if (first == 0) {
      line.set(0, {v[0].i, u[0].i});
      if (grid.has_edge())
        line.set(grid.n2 / 2, {v[0].r, u[0].r});
      l = 1;
    }
    for (; l < n; ++l) {
      line.set(first + l, {u[l].r + v[l].i, u[l].i - v[l].r});
      line.set(grid.n2 - first - l, {v[l].i - u[l].r, u[l].i + v[l].r});
    }
  }
}

// Real rows come as v + i u.
template <class T, bool real>
void line_to_spectra(const Worker<T> &worker, const Rows<T> &rows, const Line<T> &line) {
  constexpr int V = lanes_of<T>;
  const PhaseGrid &grid = worker.job.grid;
  const std::int64_t columns = grid.columns();
  const T half = T(0.5);
  for (std::int64_t first = 0; first < columns; first += V) {
    const int n = int(std::min<std::int64_t>(V, columns - first));
    Complex<T> u[V], v[V];
    for (int l = n; l < V; ++l)
      u[l] = v[l] = Complex<T>{};
    if constexpr (!real) {
      for (int l = 0; l < n; ++l)
        u[l] = line.get(first + l);
      set_block(worker, rows, 0, first / V, u);
      continue;
    }
    int l = 0;
    if (first == 0) {
      const Complex<T> z = line.get(0);
      const Complex<T> edge = grid.has_edge() ? line.get(grid.n2 / 2) : Complex<T>{};
      u[0] = {z.i, edge.i};
      v[0] = {z.r, edge.r};
      l = 1;
    }
    for (; l < n; ++l) {
      const Complex<T> p = line.get(first + l), q = line.get(grid.n2 - first - l);
      u[l] = {(p.i + q.i) * half, (q.r - p.r) * half};
      v[l] = {(p.r + q.r) * half, (p.i - q.i) * half};
    }
    set_block(worker, rows, 0, first / V, u);
    set_block(worker, rows, V, first / V, v);
  }
}

template <class T, bool real, Step step>
void do_rows(const Worker<T> &worker, const Update<T> &u, const Rows<T> &rows,
             bool last) {
  const Line<T> spectrum = worker.line(0), line = worker.line(1);
  if constexpr (step != Step::begin) {
    spectra_to_line<T, real>(worker, rows, spectrum);
    worker.job.third(spectrum, line, worker.scratch);
  }
  update_rows<T, real, step>(worker, u, rows, line);
  if (last)
    return;
  worker.job.third(line, spectrum, worker.scratch);
  line_to_spectra<T, real>(worker, rows, spectrum);
}

// --- pass B: planes

// Frequencies 0 and n2 / 2 of real rows are real: along the second axis they are
// transformed as one column, 0 + i (n2 / 2).
template <class T> struct EdgeColumn {
  static constexpr int V = lanes_of<T>;
  T *plane;
  std::int64_t n1, column_blocks;

  T *zero(std::int64_t i) const { return plane + i * 2 * V; } // re at 0, im at V
  T *edge(std::int64_t i) const {
    return plane + (column_blocks + i / V) * 2 * V + i % V;
  }

  // Of exchanged values. Whatever has no Hermitian symmetry is left out, as by a
  // transform to real numbers.
  void pack() const {
    for (std::int64_t i = 0; i <= n1 / 2; ++i) {
      const std::int64_t j = (n1 - i) % n1;
      const T half = T(0.5);
      const T zr = (zero(i)[V] + zero(j)[V]) * half,
              zi = (zero(i)[0] - zero(j)[0]) * half;
      const T er = (edge(i)[V] + edge(j)[V]) * half,
              ei = (edge(i)[0] - edge(j)[0]) * half;
      zero(i)[V] = zr - ei, zero(i)[0] = zi + er;
      zero(j)[V] = zr + ei, zero(j)[0] = er - zi;
    }
  }

  void unpack() const {
    for (std::int64_t i = 0; i <= n1 / 2; ++i) {
      const std::int64_t j = (n1 - i) % n1;
      const T half = T(0.5);
      const T pr = zero(i)[0], pi = zero(i)[V], qr = zero(j)[0], qi = zero(j)[V];
      const T zr = (pr + qr) * half, zi = (pi - qi) * half;
      const T er = (pi + qi) * half, ei = (qr - pr) * half;
      zero(i)[0] = zr, zero(i)[V] = zi, edge(i)[0] = er, edge(i)[V] = ei;
      zero(j)[0] = zr, zero(j)[V] = -zi, edge(j)[0] = er, edge(j)[V] = -ei;
    }
    for (std::int64_t i = n1; i % V != 0; ++i) // lanes past the last are computed with
      edge(i)[0] = edge(i)[V] = T(0);
  }
};

template <class T>
void transform_columns(const Worker<T> &worker, T *plane, bool inverse) {
  constexpr int V = lanes_of<T>;
  const PhaseGrid &grid = worker.job.grid;
  const EdgeColumn<T> edge = {plane, grid.n1, grid.column_blocks()};
  if (inverse && grid.has_edge())
    edge.pack();
  for (std::int64_t b = 0; b < grid.column_blocks() && grid.n1 > 1; b += grid.n1) {
    T *data = plane + b * 2 * V;
    const Line<T> line = {data, 2 * V};
    worker.job.second(line, line, worker.scratch);
  }
  if (!inverse && grid.has_edge())
    edge.unpack();
}

// Planes first .. last - 1 together.
template <class T, bool real, Step step>
void do_planes(const Worker<T> &worker, const Update<T> &u, std::int64_t first,
               std::int64_t last, bool final) {
  constexpr int V = lanes_of<T>;
  const Job<T> &job = worker.job;
  const PhaseGrid &grid = job.grid;
  if (step != Step::begin)
    for (std::int64_t i = first; i < last; ++i)
      transform_columns(worker, worker.spectrum + i * job.plane, true);
  const std::int64_t end = last * grid.n1;
  for (std::int64_t row = first * grid.n1; row < end; row += (real ? 2 : 1) * V) {
    Rows<T> rows;
    rows.n = int(std::min<std::int64_t>((real ? 2 : 1) * V, end - row));
    rows.x =
        job.task.x + (worker.seed * grid.n0 * grid.n1 + row) * grid.n2 * (real ? 1 : 2);
    rows.support =
        job.task.support + worker.seed * job.task.support_stride + row * grid.n2;
    for (int r = 0; r < rows.n; ++r)
      rows.spectrum[r] =
          worker.spectrum + (row + r) / grid.n1 * job.plane + (row + r) % grid.n1 * 2 * V;
    do_rows<T, real, step>(worker, u, rows, final);
  }
  if (!final)
    for (std::int64_t i = first; i < last; ++i)
      transform_columns(worker, worker.spectrum + i * job.plane, false);
}

template <class T, bool real, Step step>
void pass_b(const Worker<T> &worker, const PhaseRound &round, bool final) {
  const Update<T> u(worker.job.task, round);
  const std::int64_t together = worker.job.planes_together(), n0 = worker.job.grid.n0;
  worker.for_each((n0 + together - 1) / together, [&](std::int64_t i) {
    do_planes<T, real, step>(worker, u, i * together, std::min((i + 1) * together, n0),
                             final);
  });
}

// --- iterations

template <class T, bool real>
void pass_b(const Worker<T> &worker, const PhaseRound &round, bool final) {
  if (round.from_old)
    pass_b<T, real, Step::from_old>(worker, round, final);
  else if (round.a == 0.0 && round.d == 0.0)
    pass_b<T, real, Step::simple>(worker, round, final);
  else
    pass_b<T, real, Step::full>(worker, round, final);
}

template <class T, bool real> void do_seed(const Worker<T> &worker) {
  const PhaseTask<T> &task = worker.job.task;
  if (worker.thread == 0)
    std::fill(worker.table(0), worker.shell_sums(0), 0.0);
  pass_b<T, real, Step::begin>(worker, task.rounds[0], false);
  for (std::int64_t i = 0; i < task.n_iterations; ++i)
    for (int r = 0; r < task.n_rounds; ++r) {
      pass_a(worker, task.background_rounds[r]);
      if (worker.thread == 0)
        reduce(worker, task.background_rounds[r],
               r == 0 ? task.errors + worker.seed * task.n_iterations + i : nullptr);
      pass_b<T, real>(worker, task.rounds[r],
                      i + 1 == task.n_iterations && r + 1 == task.n_rounds);
    }
  if (task.background && task.background_rounds[0].pending)
    finish_background(worker);
}

template <class T, bool real>
void do_seeds(const Exec &exec, const Job<T> &job, double *sums) {
  const PhaseTask<T> &task = job.task;
  const std::int64_t n_sums = phase_sums(job.grid, task.n_shells);
  T *spectra = job.work + job.at.spectra;
  if (phase_by_seed(job.grid, task.n_seeds, exec.threads)) {
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
    for (std::int64_t s = 0; s < task.n_seeds; ++s) {
      const int t = omp_get_thread_num();
      do_seed<T, real>(
          {job, s, spectra + t * job.at.spectrum, sums + t * n_sums, 0, 1, t});
    }
    return;
  }
#pragma omp parallel num_threads(exec.threads)
  for (std::int64_t s = 0; s < task.n_seeds; ++s) {
    const int t = omp_get_thread_num();
    const Worker<T> worker(job, s, spectra, sums, t, omp_get_num_threads(), t);
    do_seed<T, real>(worker);
  }
}

template <class T>
void run_phase(const Exec &exec, const PhaseTask<T> &task, T *work, double *sums) {
  const Job<T> job(exec, task, work);
  job.grid.real ? do_seeds<T, true>(exec, job, sums)
                : do_seeds<T, false>(exec, job, sums);
}

} // namespace

void phase(const Exec &exec, const PhaseTask<float> &task, float *work, double *sums) {
  run_phase(exec, task, work, sums);
}

void phase(const Exec &exec, const PhaseTask<double> &task, double *work, double *sums) {
  run_phase(exec, task, work, sums);
}

void phase_lanes(int *of_float, int *of_double) {
  *of_float = lanes_of<float>;
  *of_double = lanes_of<double>;
}

} // namespace spicore::cpu::SPICORE_SIMD
