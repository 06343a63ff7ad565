// The dense form of `accumulate`: products of transforms along the angle, on tensor
// cores.
#pragma once

#include "accumulate.cuh"
#include "frame_rings.cuh"
#include "mma.cuh"

namespace spicore::cuda {
namespace {

// --- transforms of frames

// A block has a frame at a time; none where all groups scatter.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    hold_kernel(const __grid_constant__ Task task) {
  __shared__ bool some;
  if (threadIdx.x == 0)
    some = false;
  __syncthreads();
  for (std::int64_t g = threadIdx.x; g < task.terms.n_groups; g += kThreads)
    if (multiplies(task, g))
      some = true;
  __syncthreads();
  if (!some)
    return;
  const Photons &photons = task.photons;
  for (std::int64_t d = blockIdx.x; d < photons.n_frames; d += gridDim.x) {
    float2 *held = task.held(d, 0);
    for (int first = 0; first < task.n_rings; first += kRings)
      transform_rings<Transform>(photons, photons.begin[d], photons.begin[d + 1],
                                 unsigned(task.n_bins), first,
                                 [&](int ring, int m, float re, float im) {
                                   if (ring < task.n_rings)
                                     held[m * task.n_rings + ring] = {re, im};
                                 });
  }
}

// --- products

constexpr int kTiles = 5; // of 8 rings, that a warp sums in registers
constexpr int kWarpRings = 8 * kTiles;
constexpr int kStep = 16;                 // runs of a product
constexpr int kMostRuns = kStep * kWarps; // of a batch

// How the warps of a block share a batch of runs of terms: `per_order` of them have an
// order, each with kWarpRings rings. The more there are, the fewer orders and the more
// runs has a block: the factors of a batch take the same space.
struct Sharing {
  int per_order = 1; // a divisor of kWarps

  explicit Sharing(int n_rings) {
    while (per_order < kWarps && per_order * kWarpRings < n_rings)
      per_order *= 2;
  }
  SPI_HD int orders() const { return kWarps / per_order; }
  SPI_HD int rings() const { return kWarpRings * per_order; }
  SPI_HD int runs() const { return kStep * per_order; }
  SPI_HD int lanes() const { return 2 * orders(); } // of a run: re and im of each order

  // Factors are [run][view, mirror][order][re, im], with odd strides against conflicts of
  // banks.
  SPI_HD int row_stride() const { return lanes() + 1; }
  SPI_HD int run_stride() const { return 2 * kViewGroup * row_stride() + 1; }
  SPI_HD int size() const { return runs() * run_stride(); }
};

// A batch of runs of terms of one frame, from run `first` of `n` of a group in a chunk.
struct Batch {
  std::int64_t begin, end; // terms of the group in the chunk
  int first, n;
};

// P^_(order, view, mirror) of each run: a lane has a component of one order and takes the
// terms in turn, so that nobody else adds to its sums.
template <int A>
__device__ void transform_run(const Task &task, const Sharing &sharing,
                              const Batch &batch, const float *cosine, float *factors,
                              unsigned *frames) {
  const int lane = threadIdx.x % sharing.lanes(), slot = threadIdx.x / sharing.lanes();
  float *own = factors + slot * sharing.run_stride() + lane;
  for (int row = 0; row < kViewGroup * task.mirrors; ++row)
    own[row * sharing.row_stride()] = 0.0f;
  const int run = batch.first + slot;
  const unsigned *place = task.runs(batch.begin) + run;
  const std::int64_t first = run < batch.n ? batch.begin + place[0] : batch.end;
  const std::int64_t end = run + 1 < batch.n ? batch.begin + place[1] : batch.end;
  const unsigned d = first < end ? task.terms.frame[first] : 0;
  const bool known = d < task.photons.n_frames;
  if (lane == 0)
    frames[slot] = known ? d : 0; // whose factors are 0
  if (!known)
    return;
  const unsigned span = kViewGroup * unsigned(task.mirrors) * A;
  const int m = blockIdx.y * sharing.orders() + lane / 2;
  const int turn = lane % 2 * (A / 4); // cos(x + pi / 2) = -sin(x)
  const bool counts = lane == 0 && blockIdx.y == 0 && blockIdx.z == 0;
  for (std::int64_t i = first; i < end; ++i) {
    const unsigned orientation = __ldg(task.terms.orientation + i) - blockIdx.x * span;
    const float p = __ldg(task.terms.probability + i);
    if (orientation >= span)
      continue;
    const int row = orientation / A, j = orientation % A;
    own[row * sharing.row_stride()] += p * cosine[(m * j + turn) % A];
    if (counts)
      atomicAdd(task.exposures + blockIdx.x * span + orientation,
                double(p) * task.fluence[d]);
  }
}

// What multiplies K^ in 16 runs, as three bf16 that stand for a float32: with
// S = P^_0 + P^_1 and D = P^_0 - P^_1 of the mirror images,
//
//   P^_0 K^ + conj(P^_1 K^) = (Sr Kr - Si Ki) + i (Dr Ki + Di Kr)
struct Factors {
  unsigned sr[3][4], minus_si[3][4], dr[3][4], di[3][4];
};

template <int n>
__device__ void put(float first, float second, int word, unsigned (&to)[3][n]) {
  unsigned words[3];
  split_pair(first, second, words);
  for (int part = 0; part < 3; ++part)
    to[part][word] = words[part];
}

// factors: of the first run and of this warp's order.
__device__ inline Factors load_factors(const Sharing &sharing, int mirrors,
                                       const float *factors) {
  Factors result;
  const int lane = threadIdx.x % 32;
  unrolled<4>([&](auto word) { // rows of the matrix are views, columns are runs
    const int view = lane / 4 + word % 2 * 8, run = lane % 4 * 2 + word / 2 * 8;
    float sr[2], si[2], dr[2], di[2];
    for (int i = 0; i < 2; ++i) {
      const float *p = factors + (run + i) * sharing.run_stride() +
                       view * mirrors * sharing.row_stride();
      const float re = mirrors == 2 ? p[sharing.row_stride()] : 0.0f;
      const float im = mirrors == 2 ? p[sharing.row_stride() + 1] : 0.0f;
      sr[i] = p[0] + re, si[i] = p[1] + im;
      dr[i] = p[0] - re, di[i] = p[1] - im;
    }
    put(sr[0], sr[1], word, result.sr);
    put(-si[0], -si[1], word, result.minus_si);
    put(dr[0], dr[1], word, result.dr);
    put(di[0], di[1], word, result.di);
  });
  return result;
}

// Sums of a warp: views x rings of one order, in tiles of 8 rings.
struct Sums {
  float re[kTiles][4] = {}, im[kTiles][4] = {};

  // Adds 16 runs of frames; held: [A / 2 + 1, rings] of frame 0, from this warp's order
  // and first ring on.
  __device__ void add(const Factors &factors, const float2 *held, std::int64_t per_frame,
                      const unsigned *frames, int n_rings) {
    const int lane = threadIdx.x % 32;
    const float2 *own[4]; // of the lane's four runs
    for (int i = 0; i < 4; ++i)
      own[i] = held + frames[lane % 4 * 2 + i / 2 * 8 + i % 2] * per_frame;
    unrolled<kTiles>([&](auto tile) {
      if (8 * tile >= n_rings)
        return;
      const int ring = 8 * tile + lane / 4;
      float2 k[4] = {};
      for (int i = 0; i < 4 && ring < n_rings; ++i)
        k[i] = own[i][ring];
      unsigned kr[3][2], ki[3][2];
      unrolled<2>([&](auto word) {
        put(k[2 * word].x, k[2 * word + 1].x, word, kr);
        put(k[2 * word].y, k[2 * word + 1].y, word, ki);
      });
      // Tensor cores round sums towards 0: not those of all frames, and the smallest
      // first.
      float step_re[4] = {}, step_im[4] = {};
      unrolled<3>([&](auto n) { // the six largest products of parts
        constexpr int order = 2 - decltype(n)::value;
        unrolled<order + 1>([&](auto i) {
          multiply(step_re, factors.sr[i], kr[order - i]);
          multiply(step_re, factors.minus_si[i], ki[order - i]);
          multiply(step_im, factors.dr[i], ki[order - i]);
          multiply(step_im, factors.di[i], kr[order - i]);
        });
      });
      unrolled<4>([&](auto i) {
        re[tile][i] += step_re[i];
        im[tile][i] += step_im[i];
      });
    });
  }

  // out: [view][ring][A + 2] of this warp's order and first ring.
  __device__ void store(float *out, std::int64_t per_view, int per_ring,
                        int n_rings) const {
    const int lane = threadIdx.x % 32;
    unrolled<kTiles>([&](auto tile) {
      unrolled<4>([&](auto i) {
        const int view = lane / 4 + i / 2 * 8, ring = 8 * tile + lane % 4 * 2 + i % 2;
        if (ring >= n_rings)
          return;
        float *to = out + view * per_view + ring * per_ring;
        to[0] = re[tile][i];
        to[1] = im[tile][i];
      });
    });
  }
};

// Grid: groups along x, orders along y, rings along z. Nothing but the sums outlasts a
// batch, so that frames x orientations are never in memory.
template <int A>
__global__ void __launch_bounds__(kThreads, 2)
    products_kernel(const __grid_constant__ Task task, Sharing sharing) {
  __shared__ float cosine[A];
  __shared__ unsigned frames[kMostRuns];
  if (!multiplies(task, blockIdx.x))
    return;
  float *factors = dynamic_shared<float>();
  for (int i = threadIdx.x; i < A; i += kThreads)
    cosine[i] = roots<A>.c[i];
  const int warp = threadIdx.x / 32, order = warp / sharing.per_order;
  const int m = blockIdx.y * sharing.orders() + order;
  const int ring = blockIdx.z * sharing.rings() + warp % sharing.per_order * kWarpRings;
  const int n_rings = m <= A / 2 ? task.n_rings - ring : 0; // of this warp
  const float2 *held = task.held(0, m) + ring;
  Sums sums;
  for (std::int64_t c = 0; c < task.terms.n_chunks; ++c) {
    const std::int64_t *begin = task.begin(c) + blockIdx.x;
    Batch batch{begin[0], begin[1], 0, task.n_runs(c)[blockIdx.x]};
    for (; batch.first < batch.n; batch.first += sharing.runs()) {
      __syncthreads(); // the batch before has been multiplied; or the cosines are there
      transform_run<A>(task, sharing, batch, cosine, factors, frames);
      __syncthreads();
      for (int i = 0; i < sharing.runs() && batch.first + i < batch.n && n_rings > 0;
           i += kStep)
        sums.add(load_factors(sharing, task.mirrors,
                              factors + i * sharing.run_stride() + 2 * order),
                 held, task.held_stride(), frames + i, n_rings);
    }
  }
  if (n_rings > 0)
    sums.store(task.sums(blockIdx.x * kViewGroup, ring) + 2 * m,
               std::int64_t(task.n_rings) * (A + 2), A + 2, n_rings);
}

// --- back to angles

constexpr int kViewStride = kViewGroup + 1; // odd: neighbouring angles in other banks

// A block has a ring of a group. Sums of photons are not negative: what is, is rounding.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    turn_back_kernel(const __grid_constant__ Task task) {
  constexpr int A = Transform::A, pieces = kThreads / kViewGroup;
  if (!multiplies(task, blockIdx.x))
    return;
  float *x = dynamic_shared<float>();
  const int ring = blockIdx.y, piece = threadIdx.x / kViewGroup;
  const std::int64_t first = std::int64_t(blockIdx.x) * kViewGroup;
  for (int i = threadIdx.x; i < kViewGroup * (A + 2); i += kThreads)
    x[i % (A + 2) * kViewStride + i / (A + 2)] =
        task.sums(first + i / (A + 2), ring)[i % (A + 2)];
  __syncthreads();
  float *own = x + threadIdx.x % kViewGroup;
  for (int m1 = piece; m1 <= Transform::half; m1 += pieces)
    Transform::inverse_row(own, kViewStride, m1);
  __syncthreads();
  for (int j2 = piece; j2 < Transform::columns; j2 += pieces)
    Transform::inverse_column(own, kViewStride, j2, [&](int, int place, float value) {
      own[place * kViewStride] = value;
    });
  __syncthreads();
  for (int i = threadIdx.x; i < kViewGroup * A; i += kThreads) {
    const float value = x[Transform::place(i % A) * kViewStride + i / A] * (1.0f / A);
    float *out = task.tomograms + (first + i / A) * task.n_bins + ring * A + i % A;
    *out += value > 0.0f ? value : 0.0f;
  }
}

} // namespace
} // namespace spicore::cuda
