#include "spicore/maximize.hpp"

#include "launch.cuh"
#include "spicore/math/elementary.hpp"

namespace spicore::cuda {
namespace {

static_assert(kLanes == 32, "a warp reads the orientations of a panel side by side");
constexpr int kWarps = kThreads / kLanes;

// What all forms have.
struct Task {
  const float *panels;
  std::int64_t n_pixels, n_orientations, n_frames;
  const float *fluence, *offset;
  float *out;
  std::int64_t stride;

  __device__ std::int64_t n_panels() const { return pieces(n_orientations, kLanes); }

  __device__ void store(std::int64_t d, std::int64_t panel, int lane, float sum) const {
    const std::int64_t r = panel * kLanes + lane;
    if (r < n_orientations)
      out[d * stride + r] = sum - __ldg(fluence + d) * __ldg(offset + r);
  }
};

// --- sparse frames

// Photons summed on their own before they join the total: as on the CPU, blocks keep the
// rounding error of thousands of float32 terms to that of a hundred.
constexpr std::int64_t kBlocked = 128;

// What one photon of row t adds, given the tomogram's value there.
struct Plain {
  struct Frame {
    __device__ float operator()(float value, std::uint32_t) const { return value; }
  };
  __device__ Frame frame(std::int64_t) const { return {}; }
};

struct WithBackground {
  const float *fluence, *background, *scale, *reference;

  struct Frame {
    float fluence, scale;
    const float *background, *reference;
    __device__ float operator()(float value, std::uint32_t t) const {
      return fast_log(fluence * value + scale * __ldg(background + t)) -
             __ldg(reference + t);
    }
  };
  __device__ Frame frame(std::int64_t d) const {
    return {__ldg(fluence + d), __ldg(scale + d), background, reference};
  }
};

// A warp has a frame and a panel, a lane one of its orientations: a photon is one read of
// 128 bytes. Blocks of one panel follow one another, so that its rows stay in the caches.
template <class Form>
__global__ void __launch_bounds__(kThreads)
    sparse_kernel(Task task, Photons photons, Form form) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const std::int64_t step = std::int64_t(gridDim.x) * kWarps;
  for (std::int64_t panel = blockIdx.y; panel < task.n_panels(); panel += gridDim.y) {
    const float *values = task.panels + panel * task.n_pixels * kLanes + lane;
    for (std::int64_t d = std::int64_t(blockIdx.x) * kWarps + warp; d < task.n_frames;
         d += step) {
      const auto frame = form.frame(d);
      const std::int64_t end = photons.orient_end[d];
      float total = 0.0f;
      for (std::int64_t first = photons.begin[d]; first < end; first += kBlocked) {
        const std::int64_t last = first + kBlocked < end ? first + kBlocked : end;
        float sum = 0.0f;
#pragma unroll 8
        for (std::int64_t i = first; i < last; ++i) {
          const std::uint32_t t = __ldg(photons.row + i);
          if (t < task.n_pixels)
            sum += float(__ldg(photons.count + i)) *
                   frame(__ldg(values + std::int64_t(t) * kLanes), t);
        }
        total += sum;
      }
      task.store(d, panel, lane, total);
    }
  }
}

template <class Form>
void sparse(const Exec &exec, const char *operation, const Task &task,
            const Photons &photons, const Form &form) {
  if (task.n_frames == 0 || task.n_orientations == 0)
    return;
  const dim3 grid(blocks(task.n_frames, kWarps), blocks(task.n_orientations, kLanes));
  launch(exec, operation, sparse_kernel<Form>, grid, kThreads, 0, task, photons, form);
}

// --- dense frames

constexpr int kFrames = 64; // of a block
constexpr int kPerWarp = kFrames / kWarps;
constexpr int kPixels = 32; // of a step, summed on their own before they join the total

// Values of the block's frames, zeros beyond them.
__device__ void load_values(const Task &task, const float *values, std::int64_t first,
                            std::int64_t t0, float (*to)[kPixels]) {
  const int t = threadIdx.x % kPixels;
  for (int i = threadIdx.x / kPixels; i < kFrames; i += kThreads / kPixels) {
    const bool some = first + i < task.n_frames && t0 + t < task.n_pixels;
    to[i][t] = some ? __ldg(values + (first + i) * task.n_pixels + t0 + t) : 0.0f;
  }
}

// A block has 64 frames and a panel, a thread eight frames and an orientation.
__global__ void __launch_bounds__(kThreads) dense_kernel(Task task, const float *values) {
  __shared__ float frames[kFrames][kPixels], rows[kPixels][kLanes];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const std::int64_t first = std::int64_t(blockIdx.x) * kFrames;
  for (std::int64_t panel = blockIdx.y; panel < task.n_panels(); panel += gridDim.y) {
    const float *tomograms = task.panels + panel * task.n_pixels * kLanes + lane;
    float total[kPerWarp] = {};
    for (std::int64_t t0 = 0; t0 < task.n_pixels; t0 += kPixels) {
      __syncthreads(); // the step before has been read
      load_values(task, values, first, t0, frames);
      for (int t = warp; t < kPixels; t += kWarps)
        rows[t][lane] =
            t0 + t < task.n_pixels ? __ldg(tomograms + (t0 + t) * kLanes) : 0.0f;
      __syncthreads();
      float sum[kPerWarp] = {};
#pragma unroll
      for (int t = 0; t < kPixels; ++t)
        for (int i = 0; i < kPerWarp; ++i)
          sum[i] += frames[warp * kPerWarp + i][t] * rows[t][lane];
      for (int i = 0; i < kPerWarp; ++i)
        total[i] += sum[i];
    }
    for (int i = 0; i < kPerWarp; ++i)
      if (first + warp * kPerWarp + i < task.n_frames)
        task.store(first + warp * kPerWarp + i, panel, lane, total[i]);
  }
}

} // namespace

void maximize(const Exec &exec, const float *panels, std::int64_t n_pixels,
              std::int64_t n_orientations, const Photons &photons, const float *fluence,
              const float *offset, float *out, std::int64_t stride) {
  const Task task{panels, n_pixels, n_orientations, photons.n_frames, fluence,
                  offset, out,      stride};
  sparse(exec, "maximize", task, photons, Plain{});
}

void maximize_dense(const Exec &exec, const float *panels, std::int64_t n_pixels,
                    std::int64_t n_orientations, const float *values,
                    std::int64_t n_frames, const float *fluence, const float *offset,
                    float *out, std::int64_t stride) {
  if (n_frames == 0 || n_orientations == 0)
    return;
  const Task task{panels, n_pixels, n_orientations, n_frames, fluence,
                  offset, out,      stride};
  const dim3 grid(unsigned(pieces(n_frames, kFrames)), blocks(n_orientations, kLanes));
  launch(exec, "maximize_dense", dense_kernel, grid, kThreads, 0, task, values);
}

void maximize_background(const Exec &exec, const float *panels, std::int64_t n_pixels,
                         std::int64_t n_orientations, const Photons &photons,
                         const float *fluence, const float *offset,
                         const float *background, const float *background_scale,
                         const float *reference, float *out, std::int64_t stride) {
  const Task task{panels, n_pixels, n_orientations, photons.n_frames, fluence,
                  offset, out,      stride};
  const WithBackground form{fluence, background, background_scale, reference};
  sparse(exec, "maximize_background", task, photons, form);
}

} // namespace spicore::cuda
