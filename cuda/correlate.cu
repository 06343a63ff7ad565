#include "spicore/correlate.hpp"

#include <cmath>

#include "scores.cuh"
#include "spicore/math/elementary.hpp"

namespace spicore::cuda {
namespace {

// Terms kept between two compactions; fuller lists have overflowed.
constexpr double kFull = 0.9;

// The same in every pass, whatever the compiler fuses.
__device__ float exponent_of(float beta, float score, float log_prior) {
  return std::fma(beta, score, log_prior);
}

// The frames of a block of `screen` and `match`: one tile.
__device__ void first_tile(const Task &task, Tile &tile) {
  const std::int64_t first = std::int64_t(blockIdx.x) * task.tile;
  const std::int64_t left = task.n_frames - first;
  const int n = int(left < task.tile ? left : task.tile);
  if (threadIdx.x < kColumns)
    tile.frame[threadIdx.x] = first + (int(threadIdx.x) < n ? int(threadIdx.x) : n - 1);
  if (threadIdx.x == 0)
    tile.n = n;
  __syncthreads();
}

template <class Transform>
__global__ void __launch_bounds__(kThreads)
    screen_kernel(const __grid_constant__ Task task, float *scores) {
  __shared__ Tile tile;
  float *spectra = dynamic_shared<float>();
  first_tile(task, tile);
  for (int g = 0; g < task.n_groups; ++g) {
    const Scores own = make_scores<Transform>(task, tile, g, spectra);
    float best = kNever;
    if (own.used) {
      const std::int64_t d = tile.frame[own.frame];
      best = exponent_of(task.beta[d], own.largest,
                         task.log_prior[g * kViewGroup + own.view]);
    }
    best = largest_of_frame(task, best);
    if (own.used && speaks(task))
      scores[tile.frame[own.frame] * task.n_groups + g] = best;
    __syncthreads(); // before the next group takes the place
  }
}

// The best orientation of a frame in one group, or in all so far. Of equals the first
// by mirror, view and angle counts, as on the CPU.
struct Best {
  float value = kNever;
  int item = -1, angle = 0;
  double sum = 0.0;
  int views = 0; // that there are, and mirror images
};

__device__ Best best_of_frame(const Task &task, Best best) {
  for (int step = task.per_frame() / 2; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(~0u, best.value, step);
    const int item = __shfl_xor_sync(~0u, best.item, step);
    const int angle = __shfl_xor_sync(~0u, best.angle, step);
    best.sum += __shfl_xor_sync(~0u, best.sum, step);
    best.views += __shfl_xor_sync(~0u, best.views, step);
    if (value > best.value || (value == best.value && item < best.item)) {
      best.value = value;
      best.item = item;
      best.angle = angle;
    }
  }
  return best;
}

__device__ std::int64_t orientation_of(const Task &task, int group, int mirror, int view,
                                       int angle) {
  const std::int64_t v = std::int64_t(group) * kViewGroup + view;
  return (v * task.mirrors + mirror) * task.n_angles + angle;
}

template <class Transform>
__global__ void __launch_bounds__(kThreads)
    match_kernel(const __grid_constant__ Task task, float *best, std::int64_t *index,
                 float *mean) {
  __shared__ Tile tile;
  float *spectra = dynamic_shared<float>();
  first_tile(task, tile);
  Best all;
  std::int64_t best_index = -1;
  for (int g = 0; g < task.n_groups; ++g) {
    const Scores own = make_scores<Transform>(task, tile, g, spectra);
    Best found;
    found.item = threadIdx.x % task.per_frame();
    if (own.used && task.log_prior[g * kViewGroup + own.view] != kNever) {
      found.value = own.largest;
      found.angle = own.angle;
      found.sum = own.sum;
      found.views = 1;
    }
    found = best_of_frame(task, found);
    all.sum += found.sum;
    all.views += found.views;
    if (found.value > all.value) {
      all.value = found.value;
      best_index = orientation_of(task, g, found.item / kViewGroup,
                                  found.item % kViewGroup, found.angle);
    }
    __syncthreads();
  }
  const int frame = threadIdx.x / task.per_frame();
  if (frame >= tile.n || !speaks(task))
    return;
  const std::int64_t d = tile.frame[frame];
  best[d] = all.value;
  index[d] = best_index;
  mean[d] = float(all.sum / (double(all.views) * task.n_angles));
}

// The first place in [low, high) of a sorted list whose value is not below this one, or
// high.
__device__ std::int64_t first_at_least(const std::uint32_t *list, std::int64_t value,
                                       std::int64_t low, std::int64_t high) {
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (list[middle] < value)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Sums over the terms of a frame, those of a lane or all.
struct FrameSums {
  double sum = 0.0, score = 0.0, total = 0.0;
  std::int64_t best = -1; // place of the last with the largest exponent

  __device__ void over_lanes() {
    for (int step = 16; step > 0; step /= 2) {
      sum += __shfl_xor_sync(~0u, sum, step);
      score += __shfl_xor_sync(~0u, score, step);
      total += __shfl_xor_sync(~0u, total, step);
      const std::int64_t other = __shfl_xor_sync(~0u, best, step);
      best = other > best ? other : best;
    }
  }
};

// The terms of a chunk of frames, collected by one block group by group: the list is
// sorted by group as it grows. While it runs, sums.evidence holds the largest exponent
// of each frame.
struct Collector {
  const Task &task;
  float cut;
  const TermLists &lists;
  const PosteriorSums &sums;
  std::int64_t first, last, begin, end, n; // frames; places of the chunk, and the next

  __device__ Collector(const Task &task_, float cut_, const TermLists &lists_,
                       const PosteriorSums &sums_)
      : task(task_), cut(cut_), lists(lists_), sums(sums_),
        first(blockIdx.x * lists.chunk), begin(blockIdx.x * lists.capacity) {
    last = first + lists.chunk < task.n_frames ? first + lists.chunk : task.n_frames;
    end = begin + lists.capacity;
    n = begin;
    for (std::int64_t d = first + threadIdx.x; d < last; d += kThreads)
      sums.evidence[d] = kNever;
    __syncthreads();
  }

  // Raises the largest exponent of the frames of a tile; returns what a term of this
  // thread's frame must exceed.
  __device__ float limit(const Tile &tile, const Scores &own, float exponent) {
    double *largest = own.used ? sums.evidence + tile.frame[own.frame] : nullptr;
    const float before = largest ? float(*largest) : kNever;
    const float now = largest_of_frame(task, exponent);
    const float raised = now > before ? now : before;
    __syncthreads(); // all have read it
    if (largest && speaks(task))
      *largest = raised;
    return raised - cut;
  }

  // Appends the terms of a tile in a group; false where they do not fit.
  template <class Transform>
  __device__ bool append(const Tile &tile, const Scores &own, int group) {
    float beta = 0.0f, prior = kNever, exponent = kNever;
    if (own.used) {
      beta = task.beta[tile.frame[own.frame]];
      prior = task.log_prior[group * kViewGroup + own.view];
      exponent = exponent_of(beta, own.largest, prior);
    }
    const float least = limit(tile, own, exponent);
    const bool some = exponent > least;
    int count = 0, total;
    if (some)
      for (int i = 0; i < Transform::A; ++i)
        count += exponent_of(beta, own.values[i * kViewGroup], prior) > least;
    const int before = sum_before(count, total);
    if (end - n < total && !make_room(total))
      return false;
    if (count > 0)
      write<Transform>(tile, own, group, beta, prior, least, n + before);
    n += total;
    return true;
  }

  template <class Transform>
  __device__ void write(const Tile &tile, const Scores &own, int group, float beta,
                        float prior, float least, std::int64_t to) {
    const std::int64_t o = orientation_of(task, group, own.mirror, own.view, 0);
    for (int j = 0; j < Transform::A; ++j) {
      const float x = own.values[Transform::place(j) * kViewGroup];
      const float t = exponent_of(beta, x, prior);
      if (!(t > least))
        continue;
      lists.orientation[to] = std::uint32_t(o + j);
      lists.frame[to] = std::uint32_t(tile.frame[own.frame]);
      lists.probability[to++] = t;
    }
  }

  __device__ bool make_room(int wanted) {
    drop_small();
    return n - begin <= std::int64_t(kFull * double(end - begin)) && end - n >= wanted;
  }

  // Moves what is within `cut` of the largest to the front, in order.
  __device__ void drop_small() {
    std::int64_t kept = begin;
    __syncthreads(); // all that was appended is there
    for (std::int64_t i = begin; i < n; i += kThreads) {
      const std::int64_t mine = i + threadIdx.x;
      std::uint32_t orientation = 0, frame = 0;
      float exponent = kNever;
      bool keep = false;
      if (mine < n) {
        orientation = lists.orientation[mine];
        frame = lists.frame[mine];
        exponent = lists.probability[mine];
        keep = exponent > float(sums.evidence[frame]) - cut;
      }
      int total;
      const int before = sum_before(keep, total); // a barrier: all have read theirs
      if (keep) {
        lists.orientation[kept + before] = orientation;
        lists.frame[kept + before] = frame;
        lists.probability[kept + before] = exponent;
      }
      kept += total;
    }
    n = kept;
    __syncthreads();
  }

  // Turns exponents into probabilities and sums them up: a warp has a frame.
  __device__ void normalise() {
    for (std::int64_t d = first + threadIdx.x / 32; d < last; d += kWarps)
      sum_frame(d);
    __syncthreads();
    for (std::int64_t i = begin + threadIdx.x; i < n; i += kThreads)
      lists.probability[i] *= float(1.0 / sums.information[lists.frame[i]]);
    __syncthreads();
    for (std::int64_t d = first + threadIdx.x; d < last; d += kThreads) {
      const double sum = sums.information[d];
      sums.expected_score[d] /= sum;
      sums.expected_total[d] /= sum;
      sums.evidence[d] += std::log(sum);
      sums.information[d] = task.beta[d] * sums.expected_score[d] - sums.evidence[d];
    }
  }

  // The frame's terms of a group stand side by side, and each lane looks for those of
  // another group. Then all lanes share them, in an order that the frame's terms alone
  // decide: sums do not depend on the chunk.
  __device__ void sum_frame(std::int64_t d) {
    const int lane = threadIdx.x % 32;
    FrameSums frame;
    for (int g = 0; g < task.n_groups; g += 32) {
      std::int64_t from = n, to = n;
      if (g + lane < task.n_groups) {
        const std::int64_t *group = group_begin() + g + lane;
        from = first_at_least(lists.frame, d, group[0], group[1]);
        to = first_at_least(lists.frame, d + 1, from, group[1]);
      }
      for (unsigned left = __ballot_sync(~0u, from < to); left != 0; left &= left - 1) {
        const int source = __ffs(int(left)) - 1;
        const std::int64_t past = __shfl_sync(~0u, to, source);
        for (std::int64_t i = __shfl_sync(~0u, from, source) + lane; i < past; i += 32)
          add_term(i, frame);
      }
    }
    frame.over_lanes();
    if (lane > 0)
      return;
    sums.best[d] = frame.best < 0 ? -1 : std::int64_t(lists.orientation[frame.best]);
    sums.information[d] = frame.sum; // until the end
    sums.expected_score[d] = frame.score;
    sums.expected_total[d] = frame.total;
  }

  __device__ void add_term(std::int64_t i, FrameSums &frame) {
    const std::int64_t d = lists.frame[i], o = lists.orientation[i];
    const std::int64_t row = o / task.n_angles, j = o % task.n_angles;
    const std::int64_t view = row / task.mirrors, mirror = row % task.mirrors;
    const std::int64_t g = view / kViewGroup, lane = view % kViewGroup;
    const std::int64_t total = (g * task.mirrors + mirror) * task.n_angles + j;
    const float t = lists.probability[i], largest = float(sums.evidence[d]);
    const float p = fast_exp(t - largest);
    lists.probability[i] = p;
    frame.sum += p;
    frame.score += double(p) * ((t - task.log_prior[view]) / task.beta[d]);
    frame.total += double(p) * task.totals[total * kViewGroup + lane];
    if (t >= largest)
      frame.best = i;
  }

  __device__ std::int64_t *group_begin() const {
    return lists.begin + std::int64_t(blockIdx.x) * (task.n_groups + 1);
  }

  __device__ void find_groups() {
    const std::int64_t per_group =
        std::int64_t(kViewGroup) * task.mirrors * task.n_angles;
    for (int g = threadIdx.x; g <= task.n_groups; g += kThreads)
      group_begin()[g] = first_at_least(lists.orientation, g * per_group, begin, n);
    __syncthreads();
  }

  __device__ void finish() {
    drop_small();
    find_groups();
    normalise();
  }
};

// Frames of a chunk that want a group, up to one for each thread: their places from
// `from` on. Returns how many.
__device__ int list_frames(const Collector &terms, const std::uint8_t *keep, int group,
                           std::int64_t from, int *listed) {
  const std::int64_t d = from + threadIdx.x;
  const bool wanted = d < terms.last && (!keep || keep[d * terms.task.n_groups + group]);
  int n;
  const int place = sum_before(wanted, n);
  if (wanted)
    listed[place] = threadIdx.x;
  __syncthreads();
  return n;
}

template <class Transform>
__device__ bool collect_group(Collector &terms, const std::uint8_t *keep, int group,
                              float *spectra) {
  __shared__ Tile tile;
  __shared__ int listed[kThreads];
  const int per_tile = terms.task.tile;
  for (std::int64_t from = terms.first; from < terms.last; from += kThreads) {
    const int n = list_frames(terms, keep, group, from, listed);
    for (int i = 0; i < n; i += per_tile) {
      const int own = i + int(threadIdx.x);
      if (threadIdx.x < kColumns)
        tile.frame[threadIdx.x] = from + listed[own < n ? own : n - 1];
      if (threadIdx.x == 0)
        tile.n = n - i < per_tile ? n - i : per_tile;
      __syncthreads();
      const Scores own_of = make_scores<Transform>(terms.task, tile, group, spectra);
      if (!terms.append<Transform>(tile, own_of, group))
        return false;
      __syncthreads(); // before the next tile takes the place
    }
  }
  return true;
}

template <class Transform>
__global__ void __launch_bounds__(kThreads)
    correlate_kernel(const __grid_constant__ Task task, const std::uint8_t *keep,
                     float cut, TermLists lists, PosteriorSums sums) {
  Collector terms(task, cut, lists, sums);
  float *spectra = dynamic_shared<float>();
  for (int g = 0; g < task.n_groups; ++g)
    if (!collect_group<Transform>(terms, keep, g, spectra)) {
      if (threadIdx.x == 0)
        terms.group_begin()[0] = -1;
      return;
    }
  terms.finish();
}

// Launches what kernel_for(transform) returns: a block for each `per_block` frames, or,
// if that is 0, for each tile.
template <class KernelFor, class... Arguments>
void launch_scores(const Exec &exec, const char *operation, const Correlation &task,
                   std::int64_t per_block, const KernelFor &kernel_for,
                   Arguments... arguments) {
  if (task.n_frames == 0)
    return;
  const Task on_device = device_task(task, operation);
  const std::int64_t n = per_block ? per_block : on_device.tile;
  with_angles(task.orders.n_angles, [&](auto transform) {
    launch(exec, operation, kernel_for(transform), unsigned((task.n_frames + n - 1) / n),
           kThreads, tile_bytes(task, on_device.tile), on_device, arguments...);
  });
}

} // namespace

void screen(const Exec &exec, const Correlation &task, float *, float *scores) {
  launch_scores(
      exec, "screen", task, 0, [](auto t) { return screen_kernel<decltype(t)>; }, scores);
}

void correlate(const Exec &exec, const Correlation &task, const std::uint8_t *keep,
               float cut, float *, const TermLists &terms, const PosteriorSums &sums) {
  launch_scores(
      exec, "correlate", task, terms.chunk,
      [](auto t) { return correlate_kernel<decltype(t)>; }, keep, cut, terms, sums);
}

void match(const Exec &exec, const Correlation &task, float *, float *best,
           std::int64_t *index, float *mean) {
  launch_scores(
      exec, "match", task, 0, [](auto t) { return match_kernel<decltype(t)>; }, best,
      index, mean);
}

} // namespace spicore::cuda
