#include "spicore/ewald_merge.hpp"

#include <cmath>
#include <cstring>

#include "sampling.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

struct Input {
  const float *slices, *slice_weights, *pixel_weights;
  std::int64_t stride, n_slices;
  const double *quats;
  const float *q;
  std::int64_t n_pixels, size;
  bool friedel;

  int block_length(std::int64_t first) const {
    return n_pixels - first < kBlock ? int(n_pixels - first) : kBlock;
  }
};

// Sphere around the scattering vectors of a block of pixels.
struct Bound {
  float x = 0, y = 0, z = 0, radius = 0;

  Bound() = default;
  Bound(const Input &in, std::int64_t first, int n) {
    const float *qx = in.q + first, *qy = qx + in.n_pixels, *qz = qy + in.n_pixels;
    // A pixel beyond every volume (NaN too) touches no plane; it must not spoil the
    // sphere.
    const auto far = [](float a) { return !(std::abs(a) < 1e4f); };
    const auto ignored = [&](int i) { return far(qx[i]) || far(qy[i]) || far(qz[i]); };
    for (int i = 0; i < n; ++i) {
      if (ignored(i))
        continue;
      x += qx[i] / n;
      y += qy[i] / n;
      z += qz[i] / n;
    }
    for (int i = 0; i < n; ++i) {
      if (ignored(i))
        continue;
      const float dx = qx[i] - x, dy = qy[i] - y, dz = qz[i] - z;
      const float r = std::sqrt(dx * dx + dy * dy + dz * dz);
      radius = r > radius ? r : radius;
    }
    radius += 0.01f; // room for rounding, in voxels
  }
};

// The x planes [first, last) that one thread owns.
struct Planes {
  std::int64_t first, last;
};

// First and last plane that the samples of a rotated block can touch.
Planes touched(const Input &in, const Bound &bound, const Rotation &r) {
  const float x = r.m[0] * bound.x + r.m[1] * bound.y + r.m[2] * bound.z;
  float low = x - bound.radius, high = x + bound.radius;
  if (in.friedel && low < 0) {
    const float folded_high = high > -low ? high : -low;
    low = high < 0 ? -high : 0.0f;
    high = folded_high;
  }
  const float centre = float(in.size / 2);
  return {std::int64_t(std::floor(low + centre)),
          std::int64_t(std::floor(high + centre)) + 2};
}

// Neighbouring pixels hit overlapping voxels, and a load that overlaps a store still in
// flight stalls. Stepping through a block by this odd number keeps them apart.
constexpr int kStep = 17;
static_assert(kStep % 2 == 1 && kBlock == 64, "the step must visit every sample once");

// Two neighbours along z, value and weight of each: 32 contiguous bytes.
typedef double f64x4 __attribute__((vector_size(32)));

inline void add(double *p, f64x4 v) {
  f64x4 a;
  std::memcpy(&a, p, sizeof a);
  a += v;
  std::memcpy(p, &a, sizeof a);
}

void merge_block(const Input &in, const Planes &own, std::int64_t first, int n,
                 std::int64_t slice, const Rotation &rotation, bool all_owned,
                 double *accumulator) {
  alignas(64) std::int32_t ix[kBlock], base[kBlock];
  alignas(64) float fx[kBlock], fy[kBlock], fz[kBlock], weight[kBlock];
  const std::int64_t dy = in.size, dx = dy * in.size;
  const float *qx = in.q + first, *qy = qx + in.n_pixels, *qz = qy + in.n_pixels;
  const float slice_weight = in.slice_weights[slice];
  const float *pixel_weights = in.pixel_weights + slice * in.stride + first;
  const std::int32_t size = std::int32_t(in.size);
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const Cell c = locate(rotation, qx[i], qy[i], qz[i], size, in.friedel);
    ix[i] = c.ix;
    base[i] = (c.ix * size + c.iy) * size + c.iz;
    fx[i] = c.fx;
    fy[i] = c.fy;
    fz[i] = c.fz;
    weight[i] = (c.inside ? slice_weight : 0.0f) * pixel_weights[i];
  }
  const float *values = in.slices + slice * in.n_pixels + first;
  for (int k = 0; k < kBlock; ++k) {
    const int i = (k * kStep) % kBlock;
    if (i >= n || weight[i] == 0.0f)
      continue;
    const double v = values[i], w = weight[i];
    const double x1 = fx[i], x0 = 1.0 - x1, y1 = fy[i], y0 = 1.0 - y1, z1 = fz[i],
                 z0 = 1.0 - z1;
    const f64x4 z_value = {v * z0, w * z0, v * z1, w * z1};
    double *p = accumulator + 2 * std::int64_t(base[i]);
    if (all_owned || (ix[i] >= own.first && ix[i] < own.last)) {
      add(p, z_value * (x0 * y0));
      add(p + 2 * dy, z_value * (x0 * y1));
    }
    if (all_owned || (ix[i] + 1 >= own.first && ix[i] + 1 < own.last)) {
      add(p + 2 * dx, z_value * (x1 * y0));
      add(p + 2 * (dx + dy), z_value * (x1 * y1));
    }
  }
}

// Blocks whose bounds are kept while all slices pass: a run of one slice long enough for
// the hardware to prefetch.
constexpr int kGroup = 16;

void merge_planes(const Input &in, const Planes &own, double *accumulator) {
  for (std::int64_t start = 0; start < in.n_pixels; start += kGroup * kBlock) {
    Bound bounds[kGroup];
    int n_blocks = 0;
    for (std::int64_t t = start; t < in.n_pixels && n_blocks < kGroup; t += kBlock)
      bounds[n_blocks++] = Bound(in, t, in.block_length(t));
    for (std::int64_t r = 0; r < in.n_slices; ++r) {
      if (in.slice_weights[r] == 0.0f)
        continue;
      const Rotation rotation = rotation_matrix(in.quats + 4 * r);
      for (int b = 0; b < n_blocks; ++b) {
        const Planes hit = touched(in, bounds[b], rotation);
        if (hit.last <= own.first || hit.first >= own.last)
          continue;
        const bool all_owned = hit.first >= own.first && hit.last <= own.last;
        const std::int64_t first = start + b * kBlock;
        merge_block(in, own, first, in.block_length(first), r, rotation, all_owned,
                    accumulator);
      }
    }
  }
}

// First plane of the `rank`-th of `n` owners, such that all get about the same number of
// samples. It decides who adds, never in which order.
std::int64_t boundary(const Input &in, int rank, int n) {
  if (rank == 0 || rank == n)
    return rank == 0 ? 0 : in.size;
  constexpr int kBins = 256; // bins of equal width along x; a few slices tell the shape
  std::int64_t counts[kBins] = {}, total = 0;
  const std::int64_t step = in.n_slices > 64 ? in.n_slices / 64 : 1;
  for (std::int64_t first = 0; first < in.n_pixels; first += kBlock) {
    const Bound bound(in, first, in.block_length(first));
    for (std::int64_t r = 0; r < in.n_slices; r += step) {
      const Planes hit = touched(in, bound, rotation_matrix(in.quats + 4 * r));
      const std::int64_t bin = (hit.first + hit.last) / 2 * kBins / in.size;
      if (bin < 0 || bin >= kBins)
        continue;
      ++counts[bin];
      ++total;
    }
  }
  std::int64_t below = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    below += counts[bin];
    if (below * n >= total * rank)
      return (bin + 1) * in.size / kBins;
  }
  return in.size;
}

} // namespace

void ewald_merge(const Exec &exec, const float *slices, const float *slice_weights,
                 const float *pixel_weights, std::int64_t stride, std::int64_t n_slices,
                 const double *quats, const float *q, std::int64_t n_pixels,
                 std::int64_t size, bool friedel, double *accumulator) {
  const Input in{slices, slice_weights, pixel_weights, stride, n_slices, quats,
                 q,      n_pixels,      size,          friedel};
#pragma omp parallel for schedule(static, 1) num_threads(exec.threads)
  for (int rank = 0; rank < exec.threads; ++rank)
    merge_planes(in,
                 {boundary(in, rank, exec.threads), boundary(in, rank + 1, exec.threads)},
                 accumulator);
}

} // namespace spicore::cpu::SPICORE_SIMD
