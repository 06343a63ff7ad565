// Scores of a tile of frames in a group of 16 views, shared by screen, correlate and
// match: products over the radii on tensor cores, then the inverse transform in place.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "angular.cuh"
#include "block.cuh"
#include "mma.cuh"
#include "orders.cuh"
#include "spicore/correlate.hpp"

namespace spicore::cuda {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int kColumns = 8;        // frames of a product
constexpr int kOwnBytes = 4 << 10; // shared variables of a kernel, at most

static_assert(kColumns * 2 * kViewGroup <= kThreads, "a thread for each view and frame");

// Correlation as kernels take it.
struct Task {
  DeviceOrders orders;
  int parts; // bf16 that stand for a float32
  int tile;  // frames of a tile: 8, 4, 2 or 1, whose spectra fit the shared memory
  int n_groups, mirrors, n_angles, angle_step;
  std::int64_t n_frames, stride;
  const float *frames, *views, *totals, *norm, *fluence, *beta, *log_prior;

  // Spectra of one frame and view, or mirror image: an odd number of 64-byte lines, so
  // that neighbours do not share banks.
  __device__ int item_stride() const {
    return ((orders.n_angles / 2 + 1) * 2 + 1) * kViewGroup;
  }
  __device__ int per_frame() const { return mirrors * kViewGroup; }
};

// The frames of a tile, in shared memory.
struct Tile {
  std::int64_t frame[kColumns]; // the last one again where there are no more
  int n;
};

inline std::size_t tile_bytes(const Correlation &task, int frames) {
  const std::int64_t lines = (task.orders.n_angles / 2 + 1) * 2 + 1;
  return std::size_t(frames * task.mirrors * lines * kViewGroup) * sizeof(float);
}

inline Task device_task(const Correlation &task, const char *operation) {
  const std::size_t most = most_shared_bytes(operation) - kOwnBytes;
  int tile = kColumns;
  while (tile > 1 && tile_bytes(task, tile) > most)
    tile /= 2;
  const int parts = task.arithmetic == Arithmetic::float32 ? 3 : int(task.arithmetic);
  return Task{DeviceOrders(task.orders),
              parts,
              tile,
              int(task.n_groups),
              int(task.mirrors),
              int(task.n_angles),
              int(task.n_angles / task.orders.n_angles),
              task.n_frames,
              task.stride,
              task.frames,
              task.views,
              task.totals,
              task.norm,
              task.fluence,
              task.beta,
              task.log_prior};
}

// Sums over radii of the products of re and im of views and frames.
struct Products {
  float rr[4] = {}, ii[4] = {}, ri[4] = {},
        ir[4] = {}; // of frame and view, in this order

  __device__ void add(const Products &more) {
    unrolled<4>([&](auto i) {
      rr[i] += more.rr[i];
      ii[i] += more.ii[i];
      ri[i] += more.ri[i];
      ir[i] += more.ir[i];
    });
  }
};

// Adds 16 radii from q on. views [radii][2][16], frame [radii][2] of this lane's column;
// beyond `radii` there are zeros.
template <int parts>
__device__ void add_step(const float *views, const float *frame, int q, int radii,
                         Products &sums) {
  const int lane = threadIdx.x % 32, row = lane / 4;
  q += lane % 4 * 2;
  unsigned a[2][parts][4], b[2][parts][2];
  for (int half = 0; half < 2; ++half, q += 8)
    for (int part = 0; part < 2; ++part) { // re, im
      const bool some = q < radii, both = q + 1 < radii;
      unsigned words[parts];
      for (int eight = 0; eight < 2; ++eight) {
        const float *v = views + (2 * q + part) * kViewGroup + row + 8 * eight;
        split_pair(some ? __ldg(v) : 0.0f, both ? __ldg(v + 2 * kViewGroup) : 0.0f,
                   words);
        for (int i = 0; i < parts; ++i)
          a[part][i][2 * half + eight] = words[i];
      }
      const float *k = frame + 2 * q + part;
      split_pair(some ? __ldg(k) : 0.0f, both ? __ldg(k + 2) : 0.0f, words);
      for (int i = 0; i < parts; ++i)
        b[part][i][half] = words[i];
    }
  // Tensor cores round sums towards 0: not those of all radii, and the smallest first.
  Products step;
  unrolled<parts>([&](auto n) {
    constexpr int order = parts - 1 - decltype(n)::value;
    unrolled<order + 1>([&](auto i) {
      multiply(step.rr, a[0][i], b[0][order - i]);
      multiply(step.ii, a[1][i], b[1][order - i]);
      multiply(step.ri, a[1][i], b[0][order - i]);
      multiply(step.ir, a[0][i], b[1][order - i]);
    });
  });
  sums.add(step);
}

template <int parts>
__device__ Products products(const float *views, const float *frame, int radii) {
  Products sums;
  for (int q = 0; q < radii; q += 16)
    add_step<parts>(views, frame, q, radii, sums);
  return sums;
}

// Spectra over the angle [frame][mirror][m][re,im][view], zero where no order is kept.
// The warps share the orders.
__device__ __attribute__((noinline)) void make_spectra(const Task &task, const Tile &tile,
                                                       int group, float *spectra) {
  const int lane = threadIdx.x % 32;
  const float *frame = task.frames + tile.frame[lane / 4] * task.stride * 2;
  const float *views = task.views + group * task.stride * 2 * kViewGroup;
  const int stride = task.item_stride();
  for (int m = threadIdx.x / 32; m <= task.orders.n_angles / 2; m += kWarps) {
    const bool kept = m < task.orders.n_orders;
    const std::int64_t begin = kept ? task.orders.begin[m] : 0;
    const int radii = kept ? task.orders.radii(m) : 0;
    const float *v = views + begin * 2 * kViewGroup, *k = frame + begin * 2;
    const int parts = m == 0 ? 3 : task.parts; // order 0 is the largest
    const Products sums = parts == 1   ? products<1>(v, k, radii)
                          : parts == 2 ? products<2>(v, k, radii)
                                       : products<3>(v, k, radii);
    for (int i = 0; i < 4; ++i) {
      const int column = lane % 4 * 2 + i % 2;
      if (column >= task.tile)
        continue;
      float *out = spectra + column * task.mirrors * stride + 2 * m * kViewGroup +
                   lane / 4 + i / 2 * 8;
      out[0] = sums.rr[i] + sums.ii[i];
      out[kViewGroup] = sums.ri[i] - sums.ir[i];
      if (task.mirrors == 1)
        continue;
      out[stride] = sums.rr[i] - sums.ii[i];
      out[stride + kViewGroup] = -(sums.ri[i] + sums.ir[i]);
    }
  }
}

// What a thread knows of its frame of the tile, its view and mirror image; scores has
// its values, `kViewGroup` apart, x[j] at Transform::place.
struct Scores {
  bool used; // whether there is such a frame
  int frame, mirror, view;
  float *values;
  float largest, sum;
  int angle; // of the largest, the lowest of equals
};

__device__ inline Scores own_scores(const Task &task, const Tile &tile, float *spectra) {
  const int item = threadIdx.x;
  Scores own{};
  own.frame = item / task.per_frame();
  own.mirror = item / kViewGroup % task.mirrors;
  own.view = item % kViewGroup;
  own.used = own.frame < tile.n;
  own.values = spectra + item / kViewGroup * task.item_stride() + own.view;
  own.largest = kNever;
  return own;
}

// Scores of a tile in a group. All threads of the block call it, after a barrier.
template <class Transform>
__device__ __attribute__((noinline)) Scores
make_scores(const Task &task, const Tile &tile, int group, float *spectra) {
  make_spectra(task, tile, group, spectra);
  __syncthreads();
  Scores own = own_scores(task, tile, spectra);
  if (!own.used)
    return own;
  for (int m1 = 0; m1 <= Transform::half; ++m1)
    Transform::inverse_row(own.values, kViewGroup, m1);
  const float fluence = __ldg(task.fluence + tile.frame[own.frame]);
  const std::int64_t first =
      std::int64_t(group * task.mirrors + own.mirror) * task.n_angles * kViewGroup +
      own.view;
  const int step = task.angle_step * kViewGroup;
  for (int j2 = 0; j2 < Transform::columns; ++j2)
    Transform::inverse_column(own.values, kViewGroup, j2, [&](int j, int place, float x) {
      if (task.norm)
        x *= __ldg(task.norm + first + j * step);
      x -= fluence * __ldg(task.totals + first + j * step);
      own.values[place * kViewGroup] = x;
      own.sum += x;
      if (x > own.largest || (x == own.largest && j < own.angle)) {
        own.largest = x;
        own.angle = j;
      }
    });
  return own;
}

// The first of a frame's threads speaks for it.
__device__ inline bool speaks(const Task &task) {
  return threadIdx.x % task.per_frame() == 0;
}

// Largest value of the threads of a frame: the 16, or 32, lanes of its views.
__device__ inline float largest_of_frame(const Task &task, float value) {
  for (int step = task.per_frame() / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(~0u, value, step);
    value = other > value ? other : value;
  }
  return value;
}

} // namespace
} // namespace spicore::cuda
