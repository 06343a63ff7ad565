#include "spicore/correlate.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

#include "angular_fft.hpp"
#include "spicore/math/elementary.hpp"
#include "tiles.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

static_assert(kViewGroup == kWide && kTileFrames == kTile && kViewGroup == kTile);

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Frames of a register block: with the mirror image 4 accumulators each, else 2.
constexpr int kBlock = kNative == 16 ? 6 : 3;

// Terms kept between two compactions; fuller lists have overflowed.
constexpr double kFull = 0.9;

// One order of `n` frames against 16 views: sums over radii of conj(K) L, and of
// conj(K) conj(L) for the mirror image, which needs the same four real products.
template <int n, bool mirrored>
SPICORE_INLINE void products(const float *const *frames, const float *views, int lane,
                             int radii, std::int64_t mirror_stride, float *const *out) {
  f32n rr[n] = {}, ii[n] = {}, ri[n] = {}, ir[n] = {};
  const float *l = views + lane;
  for (int q = 0; q < radii; ++q, l += 2 * kWide) {
    const f32n lr = load_native(l), li = load_native(l + kWide);
    unrolled<n>([&](auto f) {
      const float kr = frames[f][2 * q], ki = frames[f][2 * q + 1];
      rr[f] += kr * lr;
      ri[f] += kr * li;
      if constexpr (mirrored) {
        ii[f] += ki * li;
        ir[f] += ki * lr;
      } else {
        rr[f] += ki * li;
        ri[f] -= ki * lr;
      }
    });
  }
  unrolled<n>([&](auto f) {
    float *x = out[f] + lane;
    if constexpr (mirrored) {
      store_native(x, rr[f] + ii[f]);
      store_native(x + kWide, ri[f] - ir[f]);
      store_native(x + mirror_stride, rr[f] - ii[f]);
      store_native(x + mirror_stride + kWide, -(ri[f] + ir[f]));
    } else {
      store_native(x, rr[f]);
      store_native(x + kWide, ri[f]);
    }
  });
}

template <int n, bool mirrored>
void order_block(const float *const *frames, const float *views, int radii,
                 std::int64_t mirror_stride, float *const *out) {
  const float *k[n];
  float *x[n];
  std::copy(frames, frames + n, k);
  std::copy(out, out + n, x);
  for (int lane = 0; lane < kWide; lane += kNative)
    products<n, mirrored>(k, views, lane, radii, mirror_stride, x);
}

// Spectra over the angle of a tile, of the first orders: one group of views, a few
// frames.
template <bool mirrored>
void float_spectra(const Correlation &task, std::int64_t n_orders, std::int64_t group,
                   const std::int64_t *frame, int n, float *spectra) {
  constexpr int block = mirrored ? kBlock : 2 * kBlock;
  const AngularOrders &orders = task.orders;
  const std::int64_t stride = correlate_stride(orders.n_angles, task.mirrors);
  const std::int64_t mirror_stride = correlate_spectrum(orders.n_angles);
  for (std::int64_t m = 0; m < n_orders; ++m) {
    const float *views = task.views + (group * task.stride + orders.begin[m]) * 2 * kWide;
    const float *k[kCorrelateTile];
    float *out[kCorrelateTile];
    for (int f = 0; f < n; ++f) {
      k[f] = task.frames + (frame[f] * task.stride + orders.begin[m]) * 2;
      out[f] = spectra + f * stride + m * 2 * kWide;
    }
    int f = 0;
    for (; f + block <= n; f += block)
      order_block<block, mirrored>(k + f, views, orders.radii[m], mirror_stride, out + f);
    for (; f < n; ++f)
      order_block<1, mirrored>(k + f, views, orders.radii[m], mirror_stride, out + f);
  }
}

void float_spectra(const Correlation &task, std::int64_t n_orders, std::int64_t group,
                   const std::int64_t *frame, int n, float *spectra) {
  task.mirrors == 2 ? float_spectra<true>(task, n_orders, group, frame, n, spectra)
                    : float_spectra<false>(task, n_orders, group, frame, n, spectra);
}

// The same from products of bf16, but for order 0. A word of 32 bits holds (re, im), so
// that a product of tiles sums re re + im im over 16 radii; the other real products come
// from (im, -re) of the views and (re, -im) of the frames, made as they are needed.
//
//   frames  [chunk][step][part][16 radii]      a step: 16 radii of one order, 0 beyond it
//   views   [step][part][16 radii][16 views]   part 1: what the rounding of part 0 lost
class TileSpectra {
public:
  TileSpectra(const Correlation &task, std::int64_t first, std::int64_t last,
              float *packed)
      : task_(task), first_(first), parts_(int(task.arithmetic)),
        row_(tile_steps(task.orders) * parts_ * kTile),
        views_(reinterpret_cast<std::uint32_t *>(packed)),
        frames_(views_ + row_ * kTile) {
    for (std::int64_t d = first; d < last; ++d)
      pack_frame(task.frames + d * task.stride * 2, frames_ + (d - first) * row_);
    tiles_.configure();
  }

  ~TileSpectra() { tiles_.release(); }

  TileSpectra(const TileSpectra &) = delete;
  TileSpectra &operator=(const TileSpectra &) = delete;

  void operator()(std::int64_t group, const std::int64_t *frame, int n, float *spectra) {
    float_spectra(task_, 1, group, frame, n, spectra);
    if (group != group_)
      pack_views(group);
    const std::uint32_t *rows[kTile]; // the last frame again where there are no more
    for (int f = 0; f < kTile; ++f)
      rows[f] = frames_ + (frame[std::min(f, n - 1)] - first_) * row_;
    const bool split = task_.arithmetic == Arithmetic::bf16_split;
    if (task_.mirrors == 2)
      split ? all_orders<true, 2>(rows, spectra) : all_orders<true, 1>(rows, spectra);
    else
      split ? all_orders<false, 2>(rows, spectra) : all_orders<false, 1>(rows, spectra);
  }

private:
  // Calls body(first coefficient, radii) for each step.
  template <class Body> void for_steps(const Body &body) const {
    const AngularOrders &orders = task_.orders;
    for (std::int64_t m = 1; m < orders.n_orders; ++m)
      for (std::int64_t q = 0; q < orders.radii[m]; q += kTile)
        body(orders.begin[m] + q,
             int(std::min<std::int64_t>(kTile, orders.radii[m] - q)));
  }

  void pack_frame(const float *frame, std::uint32_t *to) const {
    for_steps([&](std::int64_t c, int radii) {
      float re[kTile] = {}, im[kTile] = {};
      for (int q = 0; q < radii; ++q) {
        re[q] = frame[2 * (c + q)];
        im[q] = frame[2 * (c + q) + 1];
      }
      pack_pairs(re, im, parts_, kTile, to);
      to += parts_ * kTile;
    });
  }

  void pack_views(std::int64_t group) {
    group_ = group;
    const float *views = task_.views + group * task_.stride * 2 * kWide;
    std::uint32_t *to = views_;
    for_steps([&](std::int64_t c, int radii) {
      std::fill_n(to, parts_ * kTile * kTile, 0u);
      for (int q = 0; q < radii; ++q) {
        const float *pairs = views + (c + q) * 2 * kWide;
        pack_pairs(pairs, pairs + kWide, parts_, kTile * kTile, to + q * kTile);
      }
      to += parts_ * kTile * kTile;
    });
  }

  template <bool mirrored, int parts>
  void all_orders(const std::uint32_t *const *rows, float *spectra) {
    const std::int64_t stride = correlate_stride(task_.orders.n_angles, task_.mirrors);
    const std::int64_t mirror_stride = correlate_spectrum(task_.orders.n_angles);
    std::int64_t step = 0;
    for (std::int64_t m = 1; m < task_.orders.n_orders; ++m) {
      unrolled<mirrored ? 4 : 2>([&](auto i) { tiles_.template zero<i>(); });
      for (std::int64_t q = 0; q < task_.orders.radii[m]; q += kTile)
        add_step<mirrored, parts>(rows, step++);
      float *out = spectra + m * 2 * kWide, *mirror = out + mirror_stride;
      tiles_.template store<0>(out, 4 * stride);
      tiles_.template store<1>(out + kWide, 4 * stride);
      if constexpr (mirrored) {
        tiles_.template store<2>(mirror, 4 * stride);
        tiles_.template store<3>(mirror + kWide, 4 * stride);
        for (int f = 0; f < kTile; ++f)
          for (int lane = 0; lane < kWide; ++lane)
            mirror[f * stride + kWide + lane] = -mirror[f * stride + kWide + lane];
      }
    }
  }

  // Adds one step to tiles 0 .. 3: the view's re and im, its mirror image's re and -im.
  template <bool mirrored, int parts>
  void add_step(const std::uint32_t *const *rows, std::int64_t step) {
    alignas(64) std::uint32_t k[parts][kTile * kTile], k_mirror[parts][kTile * kTile];
    alignas(64) std::uint32_t l_turned[parts][kTile * kTile];
    const std::uint32_t *l = views_ + step * parts * kTile * kTile;
    for (int part = 0; part < parts; ++part) {
      for (int f = 0; f < kTile; ++f)
        std::memcpy(k[part] + f * kTile, rows[f] + (step * parts + part) * kTile,
                    kTileLine);
      for (int i = 0; i < kTile * kTile; ++i) {
        const std::uint32_t word = l[part * kTile * kTile + i];
        l_turned[part][i] = (word >> 16 | word << 16) ^ kHigh; // (im, -re)
        if constexpr (mirrored)
          k_mirror[part][i] = k[part][i] ^ kHigh; // (re, -im)
      }
    }
    unrolled<2 * parts - 1>([&](auto i) { // high high, then high low and low high
      constexpr int of_k = i / 2, of_l = i % 2;
      tiles_.template load<4>(k[of_k], kTileLine);
      tiles_.template load<5>(l + of_l * kTile * kTile, kTileLine);
      tiles_.template load<6>(l_turned[of_l], kTileLine);
      tiles_.template multiply<0, 4, 5>();
      tiles_.template multiply<1, 4, 6>();
      if constexpr (mirrored) {
        tiles_.template load<7>(k_mirror[of_k], kTileLine);
        tiles_.template multiply<2, 7, 5>();
        tiles_.template multiply<3, 7, 6>();
      }
    });
  }

  const Correlation &task_;
  std::int64_t first_;
  int parts_;
  std::int64_t row_; // words of a frame
  std::uint32_t *views_, *frames_;
  std::int64_t group_ = -1; // whose views are packed
  Tiles tiles_;
};

// noexcept: a call that might throw would bring in a symbol shared between instruction
// sets.
using ToReal = void (*)(const float *, float *) noexcept;

ToReal to_real(std::int64_t n_angles) {
  ToReal transform = nullptr;
  with_angles(n_angles, [&](auto t) { transform = decltype(t)::complex_to_real; });
  return transform;
}

// Scores of one frame with 16 views and all angles, and what their lanes sum up to.
struct Lanes {
  alignas(64) float largest[kWide];
  alignas(64) float sum[kWide];
};

SPICORE_INLINE f32n maximum(f32n a, f32n b) { return a > b ? a : b; }

// x := x * norm - fluence * totals for all angles of the transform. `step`: angles of the
// totals per angle of x.
void finish_scores(const float *norm, const float *totals, std::int64_t step,
                   std::int64_t n_angles, float fluence, float *x, Lanes &lanes) {
  for (int lane = 0; lane < kWide; lane += kNative) {
    f32n largest = f32n{} + kNever, sum = {};
    for (std::int64_t j = 0; j < n_angles; ++j) {
      float *p = x + j * kWide + lane;
      f32n value = load_native(p);
      if (norm)
        value *= load_native(norm + j * step * kWide + lane);
      value -= fluence * load_native(totals + j * step * kWide + lane);
      store_native(p, value);
      largest = maximum(value, largest);
      sum += value;
    }
    store_native(lanes.largest + lane, largest);
    store_native(lanes.sum + lane, sum);
  }
}

// Calls visit(frame, group, mirror, x, lanes) for frames first .. last - 1 and all
// groups. x: scores [A][16].
template <class Visit>
void for_scores(const Correlation &task, const std::uint8_t *keep, std::int64_t first,
                std::int64_t last, float *work, const Visit &visit) {
  const std::int64_t n_angles = task.orders.n_angles, step = task.n_angles / n_angles;
  const std::int64_t stride = correlate_stride(n_angles, task.mirrors);
  const ToReal transform = to_real(n_angles);
  const int most = correlate_tile(n_angles, task.mirrors, task.arithmetic);
  float *spectra = work, *x = work + most * stride;
  std::fill(spectra, x, 0.0f); // orders beyond the last stay 0
  std::optional<TileSpectra> tiles;
  if (task.arithmetic != Arithmetic::float32)
    tiles.emplace(task, first, last, x + n_angles * kWide);
  Lanes lanes;
  std::int64_t list[kCorrelateTile];
  for (std::int64_t g = 0; g < task.n_groups; ++g) {
    int n = 0;
    for (std::int64_t d = first; d < last; ++d) {
      if (!keep || keep[d * task.n_groups + g])
        list[n++] = d;
      if (n == 0 || (n < most && d + 1 < last))
        continue;
      tiles ? (*tiles)(g, list, n, spectra)
            : float_spectra(task, task.orders.n_orders, g, list, n, spectra);
      for (int f = 0; f < n; ++f)
        for (std::int64_t mirror = 0; mirror < task.mirrors; ++mirror) {
          transform(spectra + f * stride + mirror * correlate_spectrum(n_angles), x);
          const std::int64_t at = (g * task.mirrors + mirror) * task.n_angles * kWide;
          finish_scores(task.norm ? task.norm + at : nullptr, task.totals + at, step,
                        n_angles, task.fluence[list[f]], x, lanes);
          visit(list[f], g, mirror, x, lanes);
        }
      n = 0;
    }
  }
}

std::int64_t orientation_of(const Correlation &task, std::int64_t group, int lane,
                            std::int64_t mirror, std::int64_t j) {
  return ((group * kWide + lane) * task.mirrors + mirror) * task.n_angles + j;
}

// Collects the terms of a chunk of frames. While it runs, sums.evidence holds the largest
// exponent of each frame.
class Collector {
public:
  Collector(const Correlation &task, float cut, const TermLists &lists,
            const PosteriorSums &sums, std::int64_t chunk, std::int64_t n_frames)
      : task_(task), cut_(cut), sums_(sums), first_(chunk * lists.chunk),
        last_(std::min(first_ + lists.chunk, n_frames)), begin_(chunk * lists.capacity),
        end_(begin_ + lists.capacity), lists_(lists),
        group_begin_(lists.begin + chunk * (task.n_groups + 1)), n_(begin_) {
    for (std::int64_t d = first_; d < last_; ++d)
      sums_.evidence[d] = kNever;
  }

  std::int64_t first() const { return first_; }
  std::int64_t last() const { return last_; }

  void operator()(std::int64_t d, std::int64_t group, std::int64_t mirror, const float *x,
                  const Lanes &lanes) {
    const float beta = task_.beta[d];
    const float *prior = task_.log_prior + group * kWide;
    float largest = kNever;
    for (int lane = 0; lane < kWide; ++lane)
      largest = std::max(largest, beta * lanes.largest[lane] + prior[lane]);
    sums_.evidence[d] = std::max<double>(sums_.evidence[d], largest);
    const float limit = float(sums_.evidence[d]) - cut_;
    if (overflowed_ || !(largest > limit))
      return;
    for (int lane = 0; lane < kWide; ++lane) {
      if (!(beta * lanes.largest[lane] + prior[lane] > limit))
        continue;
      if (end_ - n_ < task_.n_angles && !make_room())
        return;
      const std::int64_t o = orientation_of(task_, group, lane, mirror, 0);
      for (std::int64_t j = 0; j < task_.n_angles; ++j) {
        const float t = beta * x[j * kWide + lane] + prior[lane];
        lists_.orientation[n_] = std::uint32_t(o + j);
        lists_.frame[n_] = std::uint32_t(d);
        lists_.probability[n_] = t;
        n_ += t > limit;
      }
    }
  }

  void finish() {
    if (overflowed_) {
      group_begin_[0] = -1;
      return;
    }
    drop_small();
    normalise();
    std::int64_t i = begin_;
    const std::int64_t per_group = kWide * task_.mirrors * task_.n_angles;
    for (std::int64_t g = 0; g <= task_.n_groups; ++g) {
      while (i < n_ && lists_.orientation[i] < g * per_group)
        ++i;
      group_begin_[g] = i;
    }
  }

private:
  bool make_room() {
    drop_small();
    overflowed_ = n_ - begin_ > std::int64_t(kFull * double(end_ - begin_)) ||
                  end_ - n_ < task_.n_angles;
    return !overflowed_;
  }

  void drop_small() {
    std::int64_t kept = begin_;
    for (std::int64_t i = begin_; i < n_; ++i) {
      lists_.orientation[kept] = lists_.orientation[i];
      lists_.frame[kept] = lists_.frame[i];
      lists_.probability[kept] = lists_.probability[i];
      kept += lists_.probability[i] > float(sums_.evidence[lists_.frame[i]]) - cut_;
    }
    n_ = kept;
  }

  // Turns exponents into probabilities and sums them up.
  void normalise() {
    for (std::int64_t d = first_; d < last_; ++d) {
      sums_.best[d] = -1;
      sums_.expected_score[d] = sums_.information[d] = sums_.expected_total[d] = 0.0;
    }
    for (std::int64_t i = begin_; i < n_; ++i) {
      const std::uint32_t d = lists_.frame[i], o = lists_.orientation[i];
      const std::int64_t row = o / task_.n_angles, j = o % task_.n_angles;
      const std::int64_t view = row / task_.mirrors, mirror = row % task_.mirrors;
      const std::int64_t group = view / kWide, lane = view % kWide;
      const float t = lists_.probability[i];
      const float p = fast_exp(t - float(sums_.evidence[d]));
      const float score = (t - task_.log_prior[view]) / task_.beta[d];
      const float *totals =
          task_.totals + ((group * task_.mirrors + mirror) * task_.n_angles + j) * kWide;
      if (t >= float(sums_.evidence[d]))
        sums_.best[d] = o;
      sums_.information[d] += p; // until the end: the sum
      sums_.expected_score[d] += double(p) * score;
      sums_.expected_total[d] += double(p) * totals[lane];
      lists_.probability[i] = p;
    }
    for (std::int64_t i = begin_; i < n_; ++i)
      lists_.probability[i] *= float(1.0 / sums_.information[lists_.frame[i]]);
    for (std::int64_t d = first_; d < last_; ++d) {
      const double sum = sums_.information[d];
      sums_.expected_score[d] /= sum;
      sums_.expected_total[d] /= sum;
      sums_.evidence[d] += std::log(sum);
      sums_.information[d] = task_.beta[d] * sums_.expected_score[d] - sums_.evidence[d];
    }
  }

  const Correlation &task_;
  float cut_;
  const PosteriorSums &sums_;
  std::int64_t first_, last_, begin_, end_;
  const TermLists &lists_;
  std::int64_t *group_begin_;
  std::int64_t n_;
  bool overflowed_ = false;
};

// Frames that a thread takes at a time where the results do not depend on it.
std::int64_t frames_per_chunk(const Exec &exec, std::int64_t n_frames) {
  return std::clamp<std::int64_t>(n_frames / (4 * exec.threads), 1, kMatchChunk);
}

// The best orientation of one frame so far.
struct Best {
  float value = kNever;
  std::int64_t index = -1;
  double sum = 0.0;
};

void update_best(const Correlation &task, std::int64_t group, std::int64_t mirror,
                 const float *x, const Lanes &lanes, Best &best) {
  for (int lane = 0; lane < kWide; ++lane) {
    if (task.log_prior[group * kWide + lane] == kNever)
      continue;
    best.sum += lanes.sum[lane];
    if (!(lanes.largest[lane] > best.value))
      continue;
    best.value = lanes.largest[lane];
    std::int64_t j = 0;
    while (j + 1 < task.n_angles && x[j * kWide + lane] != best.value)
      ++j;
    best.index = orientation_of(task, group, lane, mirror, j);
  }
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The scratch of this thread, from a 64-byte line on: tiles are loaded by the line.
float *own_work(const Correlation &task, std::int64_t chunk, float *work) {
  float *own =
      work + omp_get_thread_num() *
                 correlate_workspace(task.orders, task.mirrors, task.arithmetic, chunk);
  return own + (-reinterpret_cast<std::uintptr_t>(own) % 64) / sizeof(float);
}

} // namespace

void screen(const Exec &exec, const Correlation &task, float *work, float *scores) {
  const std::int64_t chunk = frames_per_chunk(exec, task.n_frames);
  const std::int64_t n_chunks = ceil_div(task.n_frames, chunk);
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
  for (std::int64_t c = 0; c < n_chunks; ++c) {
    const std::int64_t first = c * chunk, last = std::min(first + chunk, task.n_frames);
    std::fill(scores + first * task.n_groups, scores + last * task.n_groups, kNever);
    for_scores(task, nullptr, first, last, own_work(task, kMatchChunk, work),
               [&](std::int64_t d, std::int64_t g, std::int64_t, const float *,
                   const Lanes &lanes) {
                 float &best = scores[d * task.n_groups + g];
                 for (int lane = 0; lane < kWide; ++lane)
                   best = std::max(best, task.beta[d] * lanes.largest[lane] +
                                             task.log_prior[g * kWide + lane]);
               });
  }
}

void correlate(const Exec &exec, const Correlation &task, const std::uint8_t *keep,
               float cut, float *work, const TermLists &terms,
               const PosteriorSums &sums) {
  const std::int64_t n_chunks = ceil_div(task.n_frames, terms.chunk);
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
  for (std::int64_t c = 0; c < n_chunks; ++c) {
    Collector collector(task, cut, terms, sums, c, task.n_frames);
    for_scores(task, keep, collector.first(), collector.last(),
               own_work(task, terms.chunk, work),
               [&](std::int64_t d, std::int64_t g, std::int64_t mirror, const float *x,
                   const Lanes &lanes) { collector(d, g, mirror, x, lanes); });
    collector.finish();
  }
}

void match(const Exec &exec, const Correlation &task, float *work, float *best,
           std::int64_t *index, float *mean) {
  std::int64_t n_views = 0;
  for (std::int64_t v = 0; v < task.n_groups * kWide; ++v)
    n_views += task.log_prior[v] != kNever;
  const double n = double(n_views * task.mirrors * task.n_angles);
  const std::int64_t chunk = frames_per_chunk(exec, task.n_frames);
  const std::int64_t n_chunks = ceil_div(task.n_frames, chunk);
#pragma omp parallel for schedule(dynamic) num_threads(exec.threads)
  for (std::int64_t c = 0; c < n_chunks; ++c) {
    const std::int64_t first = c * chunk, last = std::min(first + chunk, task.n_frames);
    Best found[kMatchChunk];
    for_scores(task, nullptr, first, last, own_work(task, kMatchChunk, work),
               [&](std::int64_t d, std::int64_t g, std::int64_t mirror, const float *x,
                   const Lanes &lanes) {
                 update_best(task, g, mirror, x, lanes, found[d - first]);
               });
    for (std::int64_t d = first; d < last; ++d) {
      best[d] = found[d - first].value;
      index[d] = found[d - first].index;
      mean[d] = float(found[d - first].sum / n);
    }
  }
}

} // namespace spicore::cpu::SPICORE_SIMD
