#include "spicore/compress.hpp"

#include "block.cuh"
#include "spicore/math/background.hpp"

namespace spicore::cuda {
namespace {

static_assert(kLanes == 32, "a warp has the orientations of a panel");

// Rows of a block, whose sums lie in shared memory: three such blocks on a
// multiprocessor.
constexpr int kRows = 512;
constexpr int kRowStride = kLanes + 1; // so that neither rows nor lanes share a bank

// Posterior [frames, orientations] and the result, as all forms have them.
struct Task {
  const float *posterior;
  std::int64_t stride, n_orientations, n_frames, n_pixels;
  float *out;

  __device__ std::int64_t n_panels() const { return pieces(n_orientations, kLanes); }

  __device__ float weight(std::int64_t d, std::int64_t panel, int lane) const {
    const std::int64_t r = panel * kLanes + lane;
    return r < n_orientations ? __ldg(posterior + d * stride + r) : 0.0f;
  }

  __device__ bool weighs(std::int64_t d, std::int64_t panel) const {
    bool any = false;
    for (int lane = 0; lane < kLanes; ++lane)
      any |= weight(d, panel, lane) != 0.0f;
    return any;
  }
};

// Frames with a posterior in a panel, of the block's next `kThreads`, in order: the place
// in the list of this thread's frame, negative if it has none, and how many there are.
__device__ int place_in_list(const Task &task, std::int64_t panel, std::int64_t d,
                             int &n) {
  const bool some = d < task.n_frames && task.weighs(d, panel);
  const int before = sum_before(some, n);
  return some ? before : -1;
}

// --- sparse frames

// A frame's photons in the rows of a block.
struct Span {
  std::int64_t frame, begin, end;
};

// First place from `low` on, before `high`, whose row is not below `row`.
__device__ std::int64_t first_at(const Photons &photons, std::int64_t low,
                                 std::int64_t high, std::int64_t row) {
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (photons.row[middle] < row)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// What one photon of row t counts in a lane.
struct Plain {
  struct Frame {
    __device__ float operator()(float weighted, std::int64_t) const { return weighted; }
  };
  __device__ Frame frame(std::int64_t, std::int64_t, int) const { return {}; }
};

struct WithBackground {
  const float *panels;
  std::int64_t n_pixels;
  const float *fluence, *background, *scale;

  struct Frame {
    const float *values, *background; // of the lane
    float fluence, scale;
    __device__ float operator()(float weighted, std::int64_t t) const {
      return signal_part(weighted, fluence * __ldg(values + t * kLanes),
                         scale * __ldg(background + t));
    }
  };
  __device__ Frame frame(std::int64_t d, std::int64_t panel, int lane) const {
    return {panels + panel * n_pixels * kLanes + lane, background, __ldg(fluence + d),
            __ldg(scale + d)};
  }
};

// Adds the photons of one frame in the rows of one warp: every `kWarps`th. So no two
// warps meet in a sum, and its terms come in order.
template <class Frame>
__device__ void add_span(const Photons &photons, const Span &span, float weight,
                         const Frame &frame, std::int64_t first, unsigned n_rows,
                         float *sums) {
  const int lane = threadIdx.x % kLanes;
  const unsigned warp = threadIdx.x / kLanes;
  for (std::int64_t from = span.begin; from < span.end; from += kLanes) {
    const std::int64_t i = from + lane;
    const bool some = i < span.end;
    const unsigned row = some ? unsigned(__ldg(photons.row + i) - first) : n_rows;
    const float count = some ? float(__ldg(photons.count + i)) : 0.0f;
    for (unsigned own = __ballot_sync(~0u, row < n_rows && row % kWarps == warp); own;
         own &= own - 1) {
      const int source = __ffs(int(own)) - 1;
      const unsigned t = __shfl_sync(~0u, row, source);
      sums[t * kRowStride + lane] +=
          frame(weight * __shfl_sync(~0u, count, source), first + t);
    }
  }
}

// Writes rows [first, first + kRows) of a panel, orientation by orientation.
__device__ void store_rows(const Task &task, std::int64_t panel, std::int64_t first,
                           unsigned n_rows, const float *sums) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::int64_t r = panel * kLanes + lane;
    if (r >= task.n_orientations)
      return;
    for (unsigned t = threadIdx.x; t < n_rows; t += kThreads)
      task.out[r * task.n_pixels + first + t] = sums[t * kRowStride + lane];
  }
}

// A block has a range of rows of a panel and walks the frames that have a posterior
// there.
template <class Form>
__global__ void __launch_bounds__(kThreads)
    sparse_kernel(Task task, Photons photons, Form form) {
  __shared__ Span listed[kThreads];
  float *sums = dynamic_shared<float>();
  const int lane = threadIdx.x % kLanes;
  const std::int64_t first = std::int64_t(blockIdx.x) * kRows;
  const std::int64_t left = task.n_pixels - first;
  const unsigned n_rows = unsigned(left < kRows ? left : kRows);
  for (std::int64_t panel = blockIdx.y; panel < task.n_panels(); panel += gridDim.y) {
    for (int i = threadIdx.x; i < kRows * kRowStride; i += kThreads)
      sums[i] = 0.0f;
    for (std::int64_t from = 0; from < task.n_frames; from += kThreads) {
      const std::int64_t d = from + threadIdx.x;
      int n;
      const int place = place_in_list(task, panel, d, n);
      if (place >= 0) {
        const std::int64_t end = photons.begin[d + 1];
        const std::int64_t begin = first_at(photons, photons.begin[d], end, first);
        listed[place] = {d, begin, first_at(photons, begin, end, first + kRows)};
      }
      __syncthreads();
      for (int i = 0; i < n; ++i) {
        const Span span = listed[i];
        add_span(photons, span, task.weight(span.frame, panel, lane),
                 form.frame(span.frame, panel, lane), first, n_rows, sums);
      }
    }
    __syncthreads();
    store_rows(task, panel, first, n_rows, sums);
    __syncthreads(); // before the next panel takes the place
  }
}

template <class Form>
void sparse(const Exec &exec, const char *operation, const Task &task,
            const Photons &photons, const Form &form) {
  if (task.n_orientations == 0 || task.n_pixels == 0)
    return;
  const dim3 grid(unsigned(pieces(task.n_pixels, kRows)),
                  blocks(task.n_orientations, kLanes));
  launch(exec, operation, sparse_kernel<Form>, grid, kThreads,
         kRows * kRowStride * sizeof(float), task, photons, form);
}

// Signal photons of each frame and panel in the rows that orient. A warp has both.
__global__ void __launch_bounds__(kThreads)
    signal_kernel(Task task, Photons photons, WithBackground form, double *signal) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const std::int64_t step = std::int64_t(gridDim.x) * kWarps;
  for (std::int64_t panel = blockIdx.y; panel < task.n_panels(); panel += gridDim.y)
    for (std::int64_t d = std::int64_t(blockIdx.x) * kWarps + warp; d < task.n_frames;
         d += step) {
      const float weight = task.weight(d, panel, lane);
      double sum = 0.0;
      if (__any_sync(~0u, weight != 0.0f)) {
        const auto frame = form.frame(d, panel, lane);
        for (std::int64_t i = photons.begin[d]; i < photons.orient_end[d]; ++i) {
          const std::uint32_t t = __ldg(photons.row + i);
          if (t < task.n_pixels)
            sum += frame(weight * float(__ldg(photons.count + i)), t);
        }
      }
      for (int bit = kLanes / 2; bit > 0; bit /= 2)
        sum += __shfl_xor_sync(~0u, sum, bit);
      if (lane == 0)
        signal[panel * task.n_frames + d] = sum;
    }
}

// --- dense frames

// A block has 256 rows of a panel, a thread one row and all orientations.
__global__ void __launch_bounds__(kThreads) dense_kernel(Task task, const float *values) {
  __shared__ std::int64_t listed[kThreads];
  __shared__ float weights[kThreads][kLanes];
  const std::int64_t t = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (std::int64_t panel = blockIdx.y; panel < task.n_panels(); panel += gridDim.y) {
    float sums[kLanes] = {};
    for (std::int64_t from = 0; from < task.n_frames; from += kThreads) {
      int n;
      const int place = place_in_list(task, panel, from + threadIdx.x, n);
      if (place >= 0)
        listed[place] = from + threadIdx.x;
      __syncthreads();
      for (int i = threadIdx.x; i < n * kLanes; i += kThreads)
        weights[i / kLanes][i % kLanes] =
            task.weight(listed[i / kLanes], panel, i % kLanes);
      __syncthreads();
      for (int i = 0; i < n && t < task.n_pixels; ++i) {
        const float value = __ldg(values + listed[i] * task.n_pixels + t);
        for (int lane = 0; lane < kLanes; ++lane)
          sums[lane] += value * weights[i][lane];
      }
    }
    for (int lane = 0; lane < kLanes; ++lane)
      if (panel * kLanes + lane < task.n_orientations && t < task.n_pixels)
        task.out[(panel * kLanes + lane) * task.n_pixels + t] = sums[lane];
  }
}

} // namespace

void compress(const Exec &exec, const float *posterior, std::int64_t stride,
              std::int64_t n_orientations, const Photons &photons, std::int64_t n_pixels,
              float *, float *out) {
  const Task task{posterior, stride, n_orientations, photons.n_frames, n_pixels, out};
  sparse(exec, "compress", task, photons, Plain{});
}

void compress_dense(const Exec &exec, const float *posterior, std::int64_t stride,
                    std::int64_t n_orientations, const float *values,
                    std::int64_t n_frames, std::int64_t n_pixels, float *, float *out) {
  if (n_orientations == 0 || n_pixels == 0)
    return;
  const Task task{posterior, stride, n_orientations, n_frames, n_pixels, out};
  const dim3 grid(unsigned(pieces(n_pixels, kThreads)), blocks(n_orientations, kLanes));
  launch(exec, "compress_dense", dense_kernel, grid, kThreads, 0, task, values);
}

void compress_background(const Exec &exec, const float *posterior, std::int64_t stride,
                         std::int64_t n_orientations, const Photons &photons,
                         std::int64_t n_pixels, const float *panels, const float *fluence,
                         const float *background, const float *background_scale, float *,
                         float *out, double *signal_photons) {
  const Task task{posterior, stride, n_orientations, photons.n_frames, n_pixels, out};
  const WithBackground form{panels, n_pixels, fluence, background, background_scale};
  sparse(exec, "compress_background", task, photons, form);
  if (n_orientations == 0 || photons.n_frames == 0)
    return;
  const dim3 grid(blocks(photons.n_frames, kWarps), blocks(n_orientations, kLanes));
  launch(exec, "compress_background", signal_kernel, grid, kThreads, 0, task, photons,
         form, signal_photons);
}

} // namespace spicore::cuda
