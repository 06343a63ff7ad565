#include "spicore/accumulate.hpp"

#include <algorithm>

#include "angular_fft.hpp"
#include "vec.hpp"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace spicore::cpu::SPICORE_SIMD {
namespace {

constexpr int kHeldStride = kHeldFrames + 2;  // not a power of two: see `factors`
constexpr int kRings = kNative == 16 ? 8 : 4; // of a register block: 2 * kRings sums

struct Task {
  const PosteriorTerms &terms;
  const Photons &photons;
  const float *fluence;
  std::int64_t n_angles, mirrors, n_bins, n_rings, n_orders;
  AccumulateWorkspace at;
  float *work;
  float *tomograms;
  double *exposures;

  std::int32_t *form() const { return reinterpret_cast<std::int32_t *>(work + at.form); }
  std::uint32_t *place() const {
    return reinterpret_cast<std::uint32_t *>(work + at.place);
  }
  float *count() const { return work + at.count; }
  float *own() const { return work + at.thread + omp_get_thread_num() * at.stride; }
  std::int64_t group_span() const { return kViewGroup * mirrors * n_angles; }

  // Calls body(first, last) for the terms of a group, chunk by chunk.
  template <class Body> void for_chunks(std::int64_t group, const Body &body) const {
    for (std::int64_t c = 0; c < terms.n_chunks; ++c) {
      const std::int64_t *begin = terms.begin + c * (terms.n_groups + 1) + group;
      body(begin[0], begin[1]);
    }
  }
};

// --- scatter

// Photons of a frame as places ring * 2 A + t, every eighth of them in turn: windows of
// neighbours on a ring overlap, and a load waits for such a store of up to 60 stores ago.
// 1 / 2 / 4 / 8 / 16 / 32 photons apart: 3.6 / 3.2 / 1.8 / 0.9 / 1.3 / 1.0 s for 1.5e6
// windows of 500 photons in 30 x 64 bins, 259 / 168 / 193 / 149 / 151 / 216 ms for 420
// terms a frame in 65 x 256 bins (Zen 3, AVX2).
constexpr std::int64_t kApart = 8;

template <int A> void place_photons(const Task &task, std::int64_t d) {
  const Photons &photons = task.photons;
  const std::int64_t first = photons.begin[d], last = photons.begin[d + 1];
  const auto n_bins = std::uint32_t(task.n_bins);
  std::int64_t at = first;
  for (std::int64_t start = first; start < std::min(last, first + kApart); ++start)
    for (std::int64_t i = start; i < last; i += kApart, ++at) {
      const std::uint32_t row = photons.row[i] - (photons.row[i] < n_bins ? 0 : n_bins);
      task.place()[at] = row + row / A * A;
      task.count()[at] = photons.count[i];
    }
}

// The terms of one frame in one view and mirror, and the sums of all frames.
struct Pending {
  float *weights;          // [A]
  float *sums;             // [rings][2 A]
  std::int64_t first, end; // where weights may differ from 0
  bool touched;

  void add(std::int64_t j, float p) {
    weights[j] += p;
    first = std::min(first, j);
    end = std::max(end, j + 1);
  }
};

// Adds a frame's photons under `wide` vectors of neighbouring angles at once, and clears
// their weights.
template <int wide>
void add_window(const Task &task, std::int64_t d, const Pending &pending,
                std::int64_t j) {
  float *weights = pending.weights + j, *sums = pending.sums + j;
  const std::uint32_t *place = task.place();
  const float *count = task.count();
  f32n w[wide];
  for (int k = 0; k < wide; ++k)
    w[k] = load_native(weights + k * kNative);
  for (std::int64_t i = task.photons.begin[d]; i < task.photons.begin[d + 1]; ++i)
    for (int k = 0; k < wide; ++k) {
      float *p = sums + place[i] + k * kNative;
      store_native(p, load_native(p) + count[i] * w[k]);
    }
  std::fill(weights, weights + wide * kNative, 0.0f);
}

void add_angle(const Task &task, std::int64_t d, const Pending &pending, std::int64_t j) {
  const std::uint32_t *place = task.place();
  const float *count = task.count(), w = pending.weights[j];
  float *sums = pending.sums + j;
  for (std::int64_t i = task.photons.begin[d]; i < task.photons.begin[d + 1]; ++i)
    sums[place[i]] += count[i] * w;
  pending.weights[j] = 0.0f;
}

// Any weight other than 0 at j .. j + kNative - 1?
bool any_weight(const Pending &pending, std::int64_t j) {
  const std::int64_t end = std::min(pending.end, j + kNative);
  for (; j < end; ++j)
    if (pending.weights[j] != 0.0f)
      return true;
  return false;
}

// Neighbouring angles share the reading of a photon: in 65 x 256 bins 420 terms a frame
// take 155 ms with double windows in runs of 10 and 191 without; isolated terms 51 ms for
// 40 a frame one by one and 67 in windows.
void add_frame(const Task &task, std::int64_t d, Pending &pending) {
  for (std::int64_t j = pending.first; j < pending.end; ++j) {
    if (pending.weights[j] == 0.0f)
      continue;
    const auto at = [&](std::int64_t width) {
      return std::min(j, task.n_angles - width);
    };
    if (any_weight(pending, j + kNative))
      add_window<2>(task, d, pending, at(2 * kNative));
    else if (any_weight(pending, j + 1))
      add_window<1>(task, d, pending, at(kNative));
    else
      add_angle(task, d, pending, j);
  }
  pending.touched |= pending.end > 0;
  pending.first = task.n_angles, pending.end = 0;
}

// Adds the doubled rows to the tomogram and clears them; the mirror image runs backwards.
void fold(const Task &task, Pending &pending, bool mirrored, float *tomogram) {
  if (!pending.touched)
    return;
  const std::int64_t A = task.n_angles;
  for (std::int64_t ring = 0; ring < task.n_rings; ++ring) {
    float *row = pending.sums + ring * 2 * A, *out = tomogram + ring * A;
    if (mirrored) {
      out[0] += row[0] + row[A];
      for (std::int64_t t = 1; t < A; ++t)
        out[t] += row[A - t] + row[2 * A - t];
    } else {
      for (std::int64_t t = 0; t < A; ++t)
        out[t] += row[t] + row[A + t];
    }
    std::fill(row, row + 2 * A, 0.0f);
  }
  pending.touched = false;
}

void scatter_view(const Task &task, std::int64_t view, Pending *pending) {
  const PosteriorTerms &terms = task.terms;
  const auto A = std::uint32_t(task.n_angles), span = std::uint32_t(task.mirrors) * A;
  const std::uint32_t base = std::uint32_t(view) * span;
  task.for_chunks(view / kViewGroup, [&](std::int64_t first, std::int64_t last) {
    std::uint32_t d = 0;
    for (std::int64_t i = first; i < last; ++i) {
      const std::uint32_t at = terms.orientation[i] - base;
      const float p = terms.probability[i];
      if (at >= span || p == 0.0f)
        continue;
      if (terms.frame[i] != d) {
        for (std::int64_t m = 0; m < task.mirrors; ++m)
          add_frame(task, d, pending[m]);
        d = terms.frame[i];
      }
      pending[at >= A].add(at >= A ? at - A : at, p);
      task.exposures[base + at] += double(p) * task.fluence[d];
    }
    for (std::int64_t m = 0; m < task.mirrors; ++m)
      add_frame(task, d, pending[m]);
  });
  for (std::int64_t m = 0; m < task.mirrors; ++m)
    fold(task, pending[m], m == 1, task.tomograms + view * task.n_bins);
}

void scatter(const Exec &exec, const Task &task) {
  const std::int64_t n_views = task.terms.n_groups * kViewGroup;
#pragma omp parallel num_threads(exec.threads)
  {
    float *own = task.own();
    const std::int64_t A = task.n_angles, size = 2 * task.n_bins + A;
    std::fill(own, own + task.mirrors * size, 0.0f);
    Pending pending[2];
    for (std::int64_t m = 0; m < task.mirrors; ++m)
      pending[m] = {own + m * size + 2 * task.n_bins, own + m * size, A, 0, false};
#pragma omp for schedule(dynamic)
    for (std::int64_t view = 0; view < n_views; ++view)
      if (!task.form()[view / kViewGroup])
        scatter_view(task, view, pending);
  }
}

// --- matrix products

// A call that might throw would bring in the weak symbol of an exception handler.
typedef void Transform(const float *, float *) noexcept;

template <class Angles> void to_complex(const float *in, float *out) noexcept {
  Angles::real_to_complex(in, out);
}
template <class Angles> void to_real(const float *in, float *out) noexcept {
  Angles::complex_to_real(in, out);
}

// Transforms of one frame, [order][ring / kRings][frame][re,im][kRings].
template <int A>
void hold_frame(const Task &task, std::int64_t d, std::int64_t held, Transform *forward) {
  float *real = task.own() + task.at.sums, *spectrum = task.own() + task.at.spectrum;
  const std::int64_t n_wide = (task.n_rings + kWide - 1) / kWide;
  std::fill(real, real + n_wide * A * kWide, 0.0f);
  for (std::int64_t i = task.photons.begin[d]; i < task.photons.begin[d + 1]; ++i) {
    const std::uint32_t at = task.place()[i], ring = at / (2 * A), t = at % (2 * A);
    real[(ring / kWide * A + t) * kWide + ring % kWide] += task.count()[i];
  }
  for (std::int64_t w = 0; w < n_wide; ++w) {
    forward(real + w * A * kWide, spectrum);
    for (std::int64_t m = 0; m < task.n_orders; ++m)
      for (int r = 0; r < kWide; r += kRings) {
        const std::int64_t block = (m * n_wide + w) * (kWide / kRings) + r / kRings;
        float *out = task.work + task.at.held + (block * kHeldStride + held) * 2 * kRings;
        std::copy_n(spectrum + 2 * m * kWide + r, kRings, out);
        std::copy_n(spectrum + (2 * m + 1) * kWide + r, kRings, out + kRings);
      }
  }
}

// sums[ring][re,im][16] += over frames of the product of
//   factors[frame][Sr,Si,Dr,Di][16], with S = P^_0 + P^_1 and D = P^_0 - P^_1, and
//   held[which frame][re,im][ring]:
// P^_0 K^ + conj(P^_1 K^) = (Sr Kr - Si Ki) + i (Dr Ki + Di Kr), so that the mirror image
// costs nothing more.
void multiply(const float *factors, const float *held, const std::int32_t *frame, int n,
              float *sums, std::int64_t stride) {
  for (int lane = 0; lane < kViewGroup; lane += kNative) {
    f32n re[kRings], im[kRings];
    for (int q = 0; q < kRings; ++q) {
      re[q] = load_native(sums + q * stride + lane);
      im[q] = load_native(sums + q * stride + kViewGroup + lane);
    }
    for (int i = 0; i < n; ++i) {
      const float *p = factors + i * 4 * kViewGroup + lane;
      const f32n sr = load_native(p), si = load_native(p + kViewGroup);
      const f32n dr = load_native(p + 2 * kViewGroup);
      const f32n di = load_native(p + 3 * kViewGroup);
      const float *k = held + frame[i] * 2 * kRings;
      for (int q = 0; q < kRings; ++q) {
        re[q] += sr * k[q];
        im[q] += di * k[q];
        re[q] -= si * k[kRings + q];
        im[q] += dr * k[kRings + q];
      }
    }
    for (int q = 0; q < kRings; ++q) {
      store_native(sums + q * stride + lane, re[q]);
      store_native(sums + q * stride + kViewGroup + lane, im[q]);
    }
  }
}

// One group's part of the matrix products, in the scratch of the thread.
struct Product {
  const Task &task;
  Transform *forward, *backward;
  std::int64_t group;
  float *probability, *spectrum, *factors, *sums;
  std::uint32_t *slot;
  std::int32_t frame[kProductFrames];
  int n = 0;

  Product(const Task &task_, std::int64_t group_, Transform *forward_,
          Transform *backward_)
      : task(task_), forward(forward_), backward(backward_), group(group_),
        probability(task.own() + task.at.probability),
        spectrum(task.own() + task.at.spectrum), factors(task.own() + task.at.factors),
        sums(task.own() + task.at.sums),
        slot(reinterpret_cast<std::uint32_t *>(task.own() + task.at.slot)) {
    const std::int64_t A = task.n_angles;
    for (std::int64_t lane = 0, i = 0; lane < kViewGroup; ++lane)
      for (std::int64_t m = 0; m < task.mirrors; ++m)
        for (std::int64_t j = 0; j < A; ++j)
          slot[i++] = std::uint32_t((m * A + j) * kViewGroup + lane);
    std::fill(sums, sums + padded_rings() * sum_stride(), 0.0f);
  }

  std::int64_t padded_rings() const { return (task.n_rings + kWide - 1) / kWide * kWide; }
  std::int64_t sum_stride() const { return task.n_orders * 2 * kViewGroup; }
  std::int64_t factor_stride() const { return (kProductFrames * 4 + 1) * kViewGroup; }

  // Takes the terms of one frame from position i on; returns the position after them.
  std::int64_t take(std::int64_t i, std::int64_t last, std::int64_t first_held) {
    const std::uint32_t *terms_frame = task.terms.frame, d = terms_frame[i];
    const std::uint32_t *orientation = task.terms.orientation;
    const float *p = task.terms.probability;
    const std::uint32_t *place = slot;
    const auto base = std::uint32_t(group * task.group_span());
    const double fluence = task.fluence[d];
    double *exposures = task.exposures;
    float *sum = probability;
    std::fill(sum, sum + task.group_span(), 0.0f);
    for (; i < last && terms_frame[i] == d; ++i) {
      const std::uint32_t o = orientation[i];
      sum[place[o - base]] += p[i];
      exposures[o] += p[i] * fluence;
    }
    transform();
    frame[n++] = std::int32_t(d - first_held);
    if (n == kProductFrames)
      flush();
    return i;
  }

  void transform() {
    const std::int64_t size = task.n_angles * kViewGroup;
    float *mirrored = spectrum + task.n_orders * 2 * kViewGroup;
    forward(probability, spectrum);
    if (task.mirrors == 2)
      forward(probability + size, mirrored);
    for (std::int64_t m = 0; m < task.n_orders; ++m) {
      float *out = factors + m * factor_stride() + n * 4 * kViewGroup;
      for (int i = 0; i < 2 * kViewGroup; ++i) {
        const float a = spectrum[2 * m * kViewGroup + i];
        const float b = task.mirrors == 2 ? mirrored[2 * m * kViewGroup + i] : 0.0f;
        out[i] = a + b;
        out[i + 2 * kViewGroup] = a - b;
      }
    }
  }

  void flush() {
    const std::int64_t blocks = padded_rings() / kRings;
    const std::int64_t used = (task.n_rings + kRings - 1) / kRings;
    for (std::int64_t m = 0; m < task.n_orders; ++m)
      for (std::int64_t b = 0; b < used; ++b)
        multiply(factors + m * factor_stride(),
                 task.work + task.at.held + (m * blocks + b) * kHeldStride * 2 * kRings,
                 frame, n, sums + b * kRings * sum_stride() + 2 * m * kViewGroup,
                 sum_stride());
    n = 0;
  }

  // Sums of photons are not negative: what is, is rounding.
  void finish() {
    flush();
    const std::int64_t A = task.n_angles;
    const float scale = 1.0f / float(A);
    for (std::int64_t ring = 0; ring < task.n_rings; ++ring) {
      float *real = probability;
      backward(sums + ring * sum_stride(), real);
      for (std::int64_t lane = 0; lane < kViewGroup; ++lane) {
        float *out =
            task.tomograms + (group * kViewGroup + lane) * task.n_bins + ring * A;
        for (std::int64_t j = 0; j < A; ++j)
          out[j] += std::max(0.0f, real[j * kViewGroup + lane] * scale);
      }
    }
  }
};

void product_of_group(const Task &task, std::int64_t group, std::int64_t first_held,
                      Transform *forward, Transform *backward) {
  Product product(task, group, forward, backward);
  const std::uint32_t *frame = task.terms.frame;
  task.for_chunks(group, [&](std::int64_t i, std::int64_t last) {
    while (i < last)
      if (std::uint32_t(frame[i] - first_held) < std::uint32_t(kHeldFrames))
        i = product.take(i, last, first_held);
      else
        ++i;
  });
  product.finish();
}

template <class Angles> void products(const Exec &exec, const Task &task, Angles) {
  Transform *forward = to_complex<Angles>, *backward = to_real<Angles>;
  const std::int64_t n_frames = task.photons.n_frames;
  for (std::int64_t first = 0; first < n_frames; first += kHeldFrames) {
    const std::int64_t last = std::min<std::int64_t>(n_frames, first + kHeldFrames);
#pragma omp parallel num_threads(exec.threads)
    {
#pragma omp for schedule(static)
      for (std::int64_t d = first; d < last; ++d)
        hold_frame<Angles::A>(task, d, d - first, forward);
#pragma omp for schedule(dynamic)
      for (std::int64_t group = 0; group < task.terms.n_groups; ++group)
        if (task.form()[group])
          product_of_group(task, group, first, forward, backward);
    }
  }
}

// --- which form

// Matrix products cost as much per bin and frame of a group as this many photons of
// terms: 3 where terms stand alone, 5.5 in runs of 4 neighbouring angles, 9 in runs of
// 12, within a third for 22 x 32, 30 x 64, 50 x 144 and 65 x 256 bins with 500 photons a
// frame (Zen 3, AVX2). That is 25 terms per group and frame in 30 x 64 bins, 190 in 65 x
// 256.
constexpr std::int64_t kCrossover = 6;

// Beside it, each group costs as much as about this many frames for every kHeldFrames of
// the block: sums to clear and turn back, frames to transform. With 27 frames of 512 in
// each of 32 groups of 65 x 256 bins, 372 ms against 150 scattered, at 8.5 photons per
// bin and frame.
constexpr std::int64_t kFixedFrames = 64;

bool multiplies(const Task &task, std::int64_t group) {
  std::int64_t photons = 0, visits = 0;
  const std::uint32_t *frame = task.terms.frame;
  const std::int64_t *begin = task.photons.begin;
  task.for_chunks(group, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first, start; i < last; ++visits) {
      const std::uint32_t d = frame[start = i];
      while (i < last && frame[i] == d)
        ++i;
      photons += (i - start) * (begin[d + 1] - begin[d]);
    }
  });
  const std::int64_t passes = (task.photons.n_frames + kHeldFrames - 1) / kHeldFrames;
  return photons > kCrossover * (visits + kFixedFrames * passes) * task.n_bins;
}

} // namespace

void accumulate(const Exec &exec, const PosteriorTerms &terms, const Photons &photons,
                const float *fluence, std::int64_t n_angles, std::int64_t mirrors,
                std::int64_t n_bins, float *work, float *tomograms, double *exposures) {
  const Task task{terms,
                  photons,
                  fluence,
                  n_angles,
                  mirrors,
                  n_bins,
                  n_bins / n_angles,
                  n_angles / 2 + 1,
                  accumulate_workspace(n_angles, mirrors, n_bins, terms.n_groups,
                                       photons.begin[photons.n_frames], exec.threads),
                  work,
                  tomograms,
                  exposures};
  with_angles(n_angles, [&](auto angles) {
    constexpr int A = decltype(angles)::A;
    bool any = false;
#pragma omp parallel num_threads(exec.threads)
    {
#pragma omp for schedule(static) nowait
      for (std::int64_t d = 0; d < photons.n_frames; ++d)
        place_photons<A>(task, d);
#pragma omp for schedule(dynamic) reduction(|| : any)
      for (std::int64_t group = 0; group < terms.n_groups; ++group)
        any = (task.form()[group] = multiplies(task, group)) || any;
    }
    scatter(exec, task);
    if (any)
      products(exec, task, angles);
  });
}

} // namespace spicore::cpu::SPICORE_SIMD
