// Phase retrieval on objects beyond shared memory: transforms by cuFFT, a batch of seeds
// at a time, and two kernels, P_M and the update. An iteration is recorded once and
// launched n times.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cufft.hpp"
#include "device.hpp"
#include "phase_math.cuh"
#include "repeat.cuh"

namespace spicore::cuda {

#ifdef SPICORE_EMULATED
constexpr std::int64_t kBatchVoxels = 1 << 16; // so that tests come to a second batch
#else
constexpr std::int64_t kBatchVoxels = 1 << 28; // about, of seeds that are in work
#endif
constexpr int kVoxelsPerThread = 8;
constexpr std::int64_t kSharedShells = 2048; // more are summed in global memory at once

// --- transforms

// In both directions, of a batch.
struct Transforms {
  int forward, inverse; // one plan for complex objects
  std::size_t bytes;    // of scratch
};

inline void check_cufft(int status, const char *what) {
  if (status != 0)
    throw CudaError(std::string("phase: ") + what + " failed with status " +
                    std::to_string(status));
}

// Axes of length 1 are left out, but for the last.
inline int transformed_axes(const PhaseGrid &grid, long long *axes) {
  int rank = 0;
  for (const std::int64_t n : {grid.n0, grid.n1})
    if (n > 1)
      axes[rank++] = n;
  axes[rank++] = grid.n2;
  return rank;
}

inline int make_fft_plan(const PhaseGrid &grid, std::int64_t batch, CufftType type,
                         std::size_t &bytes) {
  const Cufft &f = cufft();
  int plan = 0;
  std::size_t needed = 0;
  long long axes[3];
  const int rank = transformed_axes(grid, axes);
  check_cufft(f.create(&plan), "cufftCreate");
  check_cufft(f.set_auto_allocation(plan, 0), "cufftSetAutoAllocation");
  check_cufft(f.make_plan_many(plan, rank, axes, nullptr, 1, 0, nullptr, 1, 0, type,
                               batch, &needed),
              "cufftMakePlanMany64");
  bytes = std::max(bytes, needed);
  return plan;
}

// Held while a plan is in use: it has one stream.
inline std::mutex &plans_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Made once for each GPU and shape, and kept: a recorded iteration refers to its plans.
template <class T>
const Transforms &transforms_of(const PhaseGrid &grid, std::int64_t batch) {
  using Key =
      std::tuple<int, std::int64_t, std::int64_t, std::int64_t, bool, std::int64_t>;
  static std::map<Key, Transforms> made;
  constexpr bool is_float = sizeof(T) == sizeof(float);
  int device = 0;
  check(cudaGetDevice(&device), "phase");
  const Key key(device, grid.n0, grid.n1, grid.n2, grid.real, batch);
  const auto known = made.find(key);
  if (known != made.end())
    return known->second;
  Transforms plans = {0, 0, 0};
  if (grid.real) {
    plans.forward = make_fft_plan(
        grid, batch, is_float ? kRealToComplex : kDoubleToComplex, plans.bytes);
    plans.inverse = make_fft_plan(
        grid, batch, is_float ? kComplexToReal : kComplexToDouble, plans.bytes);
  } else {
    plans.forward = plans.inverse = make_fft_plan(
        grid, batch, is_float ? kComplexToComplex : kDoubleComplex, plans.bytes);
  }
  return made.emplace(key, plans).first->second;
}

template <class T>
void run_transform(const Exec &exec, const Transforms &plans, bool real, bool inverse,
                   void *from, void *to) {
  const Cufft &f = cufft();
  constexpr bool is_float = sizeof(T) == sizeof(float);
  const int plan = inverse ? plans.inverse : plans.forward;
  check_cufft(f.set_stream(plan, stream(exec)), "cufftSetStream");
  int status = 0;
  if (!real)
    status = (is_float ? f.complex_to_complex
                       : f.double_complex)(plan, from, to, inverse ? kInverse : kForward);
  else if (inverse)
    status = (is_float ? f.complex_to_real : f.complex_to_double)(plan, from, to);
  else
    status = (is_float ? f.real_to_complex : f.double_to_complex)(plan, from, to);
  check_cufft(status, "a transform by cuFFT");
}

// --- memory

// Seeds that are in work, and what each needs.
struct VolumeLayout {
  std::int64_t batch;
  std::int64_t half;     // frequencies of the last axis in memory
  std::int64_t spectrum; // complex values of a seed
  std::int64_t n_shells; // and one more; 0 without a background
  std::int64_t partial;  // blocks of the modulus of a seed
  std::int64_t sums; // doubles of a seed: partial errors, four tables, iterations done

  VolumeLayout(const PhaseGrid &grid, std::int64_t n_seeds, std::int64_t shells) {
    const std::int64_t most = std::max<std::int64_t>(1, kBatchVoxels / grid.voxels());
    // cuFFT takes real objects that start where a complex value could.
    const std::int64_t even = grid.voxels() % 2 == 0 ? most : (most + 1) / 2 * 2;
    batch = std::min(n_seeds, even);
    half = grid.columns() + (grid.has_edge() ? 1 : 0);
    spectrum = grid.n0 * grid.n1 * half;
    n_shells = shells > 0 ? shells + 1 : 0;
    partial = blocks(spectrum, kThreads * kVoxelsPerThread);
    sums = partial + 4 * n_shells + 1;
  }

  // That each block sums by itself first.
  SPI_HD std::int64_t own_shells() const {
    return n_shells <= kSharedShells ? n_shells : 0;
  }

  // Values from the start of `work`, in multiples of 256 bytes at least.
  std::int64_t spectra() const { return (2 * batch * spectrum + 63) / 64 * 64; }
  std::int64_t objects(const PhaseGrid &grid) const { // P_M x, of real ones
    return grid.real ? (batch * grid.voxels() + 63) / 64 * 64 : 0;
  }
};

// One batch: seeds first .. first + n - 1.
template <class T> struct Volume {
  PhaseTask<T> task;
  VolumeLayout layout;
  std::int64_t first;
  Complex<T> *spectra;
  T *objects; // P_M x, then what is transformed next where that is not x
  double *sums;

  __device__ double *sums_of(std::int64_t b) const { return sums + b * layout.sums; }
  __device__ Shells shells_of(std::int64_t b) const {
    double *tables = sums_of(b) + layout.partial;
    const std::int64_t n = layout.n_shells;
    return {tables, tables + n, tables + 2 * n, tables + 3 * n};
  }
};

// --- kernels; seeds of the batch along y

// Frequency e of the spectrum. Those of a real object that lie in the first and the last
// plane of a half have their mates there too: one thread does both, and leaves out what
// has no Hermitian symmetry, as a transform to real numbers does.
template <class T>
__device__ void project_frequency(const Volume<T> &volume, ModulusStep<T> &step,
                                  Complex<T> *spectrum, std::int64_t e) {
  const PhaseGrid &grid = volume.task.grid;
  const std::int64_t half = volume.layout.half;
  const int k = int(e % half);
  const std::int64_t i1 = e / half % grid.n1, i0 = e / half / grid.n1;
  const auto index = [&](std::int64_t j0, std::int64_t j1) {
    return spectrum_index<std::int64_t>(grid.blocks(), grid.lanes, grid.n1, j0, j1, k);
  };
  const std::int64_t at = index(i0, i1);
  const bool in_pairs = grid.real && (k == 0 || 2 * k == grid.n2);
  if (!in_pairs) {
    spectrum[e] = step(spectrum[e], at, grid.real ? 2 : 1);
    return;
  }
  const std::int64_t m0 = i0 > 0 ? grid.n0 - i0 : 0, m1 = i1 > 0 ? grid.n1 - i1 : 0;
  const std::int64_t mate = (m0 * grid.n1 + m1) * half + k;
  if (mate < e)
    return;
  const Complex<T> a = step(spectrum[e], at, 1);
  if (mate == e) {
    spectrum[e] = {a.r, T(0)};
    return;
  }
  const Complex<T> b = step(spectrum[mate], index(m0, m1), 1);
  const T half_sum = (a.r + b.r) / 2, half_difference = (a.i - b.i) / 2;
  spectrum[e] = {half_sum, half_difference};
  spectrum[mate] = {half_sum, -half_difference};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    modulus_kernel(const __grid_constant__ Volume<T> volume, int r) {
  double *partial = dynamic_shared<double>(), *own = partial + kThreads;
  const std::int64_t b = blockIdx.y, n = volume.layout.own_shells();
  Shells shells = volume.shells_of(b);
  double *of_all[2] = {shells.round_sum, shells.value_sum};
  if (n > 0) {
    shells.round_sum = own;
    shells.value_sum = own + n;
  }
  for (std::int64_t s = threadIdx.x; s < 2 * n; s += kThreads)
    own[s] = 0.0;
  __syncthreads();
  ModulusStep<T> step(volume.task, volume.task.background_rounds[r], volume.first + b,
                      shells);
  Complex<T> *spectrum = volume.spectra + b * volume.layout.spectrum;
  const std::int64_t stride = std::int64_t(gridDim.x) * kThreads;
  for (std::int64_t e = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
       e < volume.layout.spectrum; e += stride)
    project_frequency(volume, step, spectrum, e);
  __syncthreads();
  const double total = block_sum(partial, step.error);
  if (threadIdx.x == 0)
    volume.sums_of(b)[blockIdx.x] = total;
  for (std::int64_t s = threadIdx.x; s < 2 * n; s += kThreads)
    atomicAdd(of_all[s / n] + s % n, own[s]);
}

// A block a seed: the R factor from the errors of its blocks, averages of shells.
template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_kernel(const __grid_constant__ Volume<T> volume, int r) {
  const std::int64_t b = blockIdx.y, n = volume.layout.partial;
  const PhaseTask<T> &task = volume.task;
  double *errors = volume.sums_of(b), &done = errors[volume.layout.sums - 1], sum = 0.0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads)
    sum += errors[i];
  sum = block_sum(dynamic_shared<double>(), sum);
  if (threadIdx.x == 0 && r == 0) {
    task.errors[(volume.first + b) * task.n_iterations + std::int64_t(done)] =
        sum / task.total;
    done += 1.0;
  }
  for (int s = threadIdx.x; s < volume.layout.n_shells; s += kThreads)
    average_shell(volume.shells_of(b), s, task.shell_weight[s],
                  task.background_rounds[r]);
}

template <class T, class V>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ Volume<T> volume,
                  const __grid_constant__ Update<T> update) {
  const std::int64_t b = blockIdx.y, n = volume.task.grid.voxels();
  const std::int64_t stride = std::int64_t(gridDim.x) * kThreads;
  V *x = reinterpret_cast<V *>(volume.task.x) + (volume.first + b) * n;
  V *p = reinterpret_cast<V *>(volume.objects) + b * n;
  const std::uint8_t *support =
      volume.task.support + (volume.first + b) * volume.task.support_stride;
  for (std::int64_t i = std::int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += stride) {
    V value = update.reads_x ? x[i] : V{};
    const V next = update(value, p[i], support[i] != 0);
    x[i] = value;
    if (update.from_old)
      p[i] = next;
  }
}

// Adds what is pending to the stored background.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const __grid_constant__ Volume<T> volume) {
  const PhaseTask<T> &task = volume.task;
  const std::int64_t n = task.grid.n0 * task.grid.blocks() * task.grid.lanes;
  const std::int64_t stride = std::int64_t(gridDim.x) * kThreads;
  T *stored = task.background + (volume.first + blockIdx.y) * n;
  const double *of_value = volume.shells_of(blockIdx.y).of_value;
  for (std::int64_t i = std::int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += stride)
    stored[i] += T(of_value[task.shell[i]]);
}

// --- iterations

template <class T> class VolumeRun {
public:
  VolumeRun(const Volume<T> &volume, std::int64_t n, const Transforms &plans)
      : volume_(volume), plans_(plans), n_(n) {}

  void operator()(const Exec &exec) const {
    const std::int64_t n = volume_.task.n_iterations;
    repeat(exec, "phase", n, [&](const Exec &recorder) { iteration(recorder); });
    if (volume_.task.background && volume_.task.background_rounds[0].pending)
      launch(exec, "phase", finish_kernel<T>, over(volume_.layout.spectrum), kThreads, 0,
             volume_);
  }

private:
  dim3 over(std::int64_t elements) const {
    return dim3(blocks(elements, kThreads * kVoxelsPerThread), unsigned(n_));
  }

  void iteration(const Exec &exec) const {
    const PhaseTask<T> &task = volume_.task;
    const bool real = task.grid.real;
    T *x = task.x + volume_.first * task.grid.voxels() * (real ? 1 : 2);
    for (int r = 0; r < task.n_rounds; ++r) {
      const bool from_x = r == 0 || !task.rounds[r - 1].from_old;
      run_transform<T>(exec, plans_, real, false, from_x ? x : volume_.objects,
                       volume_.spectra);
      modulus(exec, r);
      run_transform<T>(exec, plans_, real, true, volume_.spectra, volume_.objects);
      update(exec, r);
    }
  }

  void modulus(const Exec &exec, int r) const {
    const std::size_t shared =
        sizeof(double) * std::size_t(kThreads + 2 * volume_.layout.own_shells());
    launch(exec, "phase", modulus_kernel<T>,
           dim3(unsigned(volume_.layout.partial), unsigned(n_)), kThreads, shared,
           volume_, r);
    launch(exec, "phase", reduce_kernel<T>, dim3(1, unsigned(n_)), kThreads,
           sizeof(double) * kThreads, volume_, r);
  }

  void update(const Exec &exec, int r) const {
    const Update<T> u(volume_.task, volume_.task.rounds[r]);
    const auto kernel =
        volume_.task.grid.real ? update_kernel<T, T> : update_kernel<T, Complex<T>>;
    launch(exec, "phase", kernel, over(volume_.task.grid.voxels()), kThreads, 0, volume_,
           u);
  }

  const Volume<T> &volume_;
  const Transforms &plans_;
  std::int64_t n_;
};

// Sizes of the batches: all but the last are equal.
template <class T>
std::array<std::int64_t, 2> volume_scratch(const PhaseGrid &grid, std::int64_t n_seeds,
                                           std::int64_t n_shells) {
  const VolumeLayout layout(grid, n_seeds, n_shells);
  const std::lock_guard lock(plans_mutex());
  std::size_t bytes = transforms_of<T>(grid, layout.batch).bytes;
  if (n_seeds % layout.batch != 0)
    bytes = std::max(bytes, transforms_of<T>(grid, n_seeds % layout.batch).bytes);
  const std::int64_t values = std::int64_t((bytes + sizeof(T) - 1) / sizeof(T));
  return {layout.spectra() + layout.objects(grid) + values, layout.batch * layout.sums};
}

template <class T>
void run_volumes(const Exec &exec, const PhaseTask<T> &task, T *work, double *sums) {
  const VolumeLayout layout(task.grid, task.n_seeds, task.n_shells);
  if (reinterpret_cast<std::uintptr_t>(task.x) % sizeof(Complex<T>) != 0)
    throw std::invalid_argument("x must be aligned to two values for cuFFT");
  Volume<T> volume = {task, layout, 0, reinterpret_cast<Complex<T> *>(work), work, sums};
  if (task.grid.real)
    volume.objects = work + layout.spectra();
  const std::lock_guard lock(plans_mutex());
  for (; volume.first < task.n_seeds; volume.first += layout.batch) {
    const std::int64_t n = std::min(layout.batch, task.n_seeds - volume.first);
    const Transforms &plans = transforms_of<T>(task.grid, n);
    for (const int plan : {plans.forward, plans.inverse})
      check_cufft(cufft().set_work_area(plan, work + layout.spectra() +
                                                  layout.objects(task.grid)),
                  "cufftSetWorkArea");
    check(cudaMemsetAsync(sums, 0, sizeof(double) * std::size_t(n * layout.sums),
                          stream(exec)),
          "phase");
    VolumeRun<T>(volume, n, plans)(exec);
  }
}

} // namespace spicore::cuda
