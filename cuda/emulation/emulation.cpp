#include <algorithm>
#include <csetjmp>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <ucontext.h>
#include <vector>

#include <cuda_runtime.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// The linker's names for the ends of the section.
extern char start_of_shared[] __asm__("__start_spicore_shared")
    __attribute__((visibility("hidden")));
extern char end_of_shared[] __asm__("__stop_spicore_shared")
    __attribute__((visibility("hidden")));

namespace spicore::emulation {
namespace {

constexpr unsigned kMostThreads = 1024, kMostBlocks = 65535; // the latter along y and z
constexpr std::size_t kStackBytes = 256 << 10;
constexpr std::size_t kSharedBytes = 48 << 10; // of a kernel that has not asked for more
constexpr int kFill = 0xff;                    // bytes of a NaN

enum class State { ready, at_block_barrier, at_warp_barrier, left };

// A thread of a block. It outlives the block: its stack starts the next thread.
struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  std::jmp_buf context;
  bool started = false;
  State state = State::left;
  const char *file = nullptr; // of the barrier it waits at
  int line = 0;
  unsigned mask = 0;
  void *part = nullptr;
  Together together = nullptr;
};

std::mutex running; // one launch at a time: its state is below
std::deque<Fiber> fibers;
std::jmp_buf scheduler;
std::vector<char> dynamic;
std::map<const void *, std::size_t> allowed;
std::string failure;
void (*kernel_body)(void *);
void *kernel_arguments;
unsigned current, n_threads;
bool downwards;

void yield(State state) {
  Fiber &fiber = fibers[current];
  fiber.state = state;
  if (_setjmp(fiber.context) == 0)
    _longjmp(scheduler, 1);
}

void fiber_main() {
  for (;;) {
    kernel_body(kernel_arguments);
    yield(State::left);
  }
}

void start(Fiber &fiber) {
  static ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  fiber.started = true;
  setcontext(&context);
}

// Runs one thread to its next barrier or its end.
void resume(unsigned thread) {
  current = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
               thread / blockDim.x / blockDim.y};
  if (_setjmp(scheduler) != 0)
    return;
  if (fibers[current].started)
    _longjmp(fibers[current].context, 1);
  start(fibers[current]);
}

bool run_ready() {
  bool some_left = false;
  for (unsigned i = 0; i < n_threads; ++i) {
    const unsigned thread = downwards ? n_threads - 1 - i : i;
    if (fibers[thread].state == State::ready)
      resume(thread);
    some_left |= fibers[thread].state != State::left;
  }
  return some_left;
}

// Lets the lanes that wait with the mask of `first` go on, if all of them have come.
bool release_lanes(unsigned warp, const Fiber &first) {
  void *parts[kWarp] = {};
  const unsigned mask = first.mask;
  const Together together = first.together;
  const unsigned lanes = std::min(n_threads - warp, unsigned(kWarp));
  for (unsigned i = 0; i < lanes; ++i) {
    const Fiber &fiber = fibers[warp + i];
    if (!(mask >> i & 1) || fiber.state == State::left)
      continue;
    if (fiber.state != State::at_warp_barrier || fiber.mask != mask ||
        fiber.together != together)
      return false;
    parts[i] = fiber.part;
  }
  if (together)
    together(parts);
  for (unsigned i = 0; i < lanes; ++i)
    if (mask >> i & 1 && fibers[warp + i].state != State::left)
      fibers[warp + i].state = State::ready;
  return true;
}

bool release_warps() {
  bool any = false;
  for (unsigned thread = 0; thread < n_threads; ++thread)
    if (fibers[thread].state == State::at_warp_barrier)
      any |= release_lanes(thread / kWarp * kWarp, fibers[thread]);
  return any;
}

// All threads that have not left must wait at the same __syncthreads.
bool release_block() {
  const Fiber *first = nullptr;
  for (unsigned thread = 0; thread < n_threads; ++thread) {
    const Fiber &fiber = fibers[thread];
    if (fiber.state == State::left)
      continue;
    first = first ? first : &fiber;
    if (fiber.state != State::at_block_barrier || fiber.line != first->line ||
        fiber.file != first->file)
      return false;
  }
  for (unsigned thread = 0; thread < n_threads; ++thread)
    if (fibers[thread].state == State::at_block_barrier)
      fibers[thread].state = State::ready;
  return true;
}

std::string where(const Fiber &fiber) {
  if (fiber.state == State::at_block_barrier)
    return std::string("__syncthreads at ") + fiber.file + ":" +
           std::to_string(fiber.line);
  return "an exchange of the warp with mask " + std::to_string(fiber.mask);
}

// Says where threads wait in vain, and gives up their stacks.
void abandon_block() {
  std::map<std::string, int> waiting;
  for (unsigned thread = 0; thread < n_threads; ++thread)
    if (fibers[thread].state != State::left)
      ++waiting[where(fibers[thread])];
  failure = "a barrier that not all threads reach:";
  for (const auto &[place, count] : waiting)
    failure += " " + std::to_string(count) + " wait for " + place + ";";
  fibers.clear();
}

bool run_block() {
  std::memset(start_of_shared, kFill, std::size_t(end_of_shared - start_of_shared));
  std::fill(dynamic.begin(), dynamic.end(), char(kFill));
  for (unsigned thread = 0; thread < n_threads; ++thread)
    fibers[thread].state = State::ready;
  downwards = !downwards;
  while (run_ready())
    if (!release_warps() && !release_block())
      return abandon_block(), false;
  return true;
}

bool can_launch(const cudaLaunchConfig_t &config, const void *kernel) {
  const dim3 &g = config.gridDim, &b = config.blockDim;
  const auto entry = allowed.find(kernel);
  const std::size_t most = entry == allowed.end() ? kSharedBytes : entry->second;
  return g.x > 0 && g.y > 0 && g.z > 0 && b.x > 0 && b.y > 0 && b.z > 0 &&
         g.y <= kMostBlocks && g.z <= kMostBlocks && b.x * b.y * b.z <= kMostThreads &&
         config.dynamicSmemBytes <= most &&
         config.dynamicSmemBytes <= std::size_t(kMostSharedBytes);
}

} // namespace

void wait_for_block(const char *file, int line) {
  Fiber &fiber = fibers[current];
  fiber.file = file;
  fiber.line = line;
  yield(State::at_block_barrier);
}

void wait_for_warp(unsigned mask, void *part, Together together) {
  Fiber &fiber = fibers[current];
  fiber.mask = mask;
  fiber.part = part;
  fiber.together = together;
  yield(State::at_warp_barrier);
}

int lane() { return int(current % kWarp); }

unsigned ballot(unsigned mask, bool predicate) {
  unsigned votes = predicate;
  wait_for_warp(mask, &votes, [](void *const *parts) {
    unsigned all = 0;
    for (int i = 0; i < kWarp; ++i)
      if (parts[i])
        all |= *static_cast<unsigned *>(parts[i]) << i;
    for (int i = 0; i < kWarp; ++i)
      if (parts[i])
        *static_cast<unsigned *>(parts[i]) = all;
  });
  return votes;
}

void *dynamic_shared() { return dynamic.data(); }

void allow_dynamic_shared(const void *kernel, std::size_t bytes) {
  const std::lock_guard lock(running);
  allowed[kernel] = bytes;
}

cudaError_t run(const cudaLaunchConfig_t &config, const void *kernel,
                void (*body)(void *), void *arguments) {
  const std::lock_guard lock(running);
  if (!can_launch(config, kernel))
    return cudaErrorInvalidConfiguration;
  kernel_body = body;
  kernel_arguments = arguments;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  n_threads = blockDim.x * blockDim.y * blockDim.z;
  while (fibers.size() < n_threads)
    fibers.emplace_back();
  dynamic.resize(config.dynamicSmemBytes);
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        if (!run_block())
          return cudaErrorLaunchFailure;
      }
  return cudaSuccess;
}

} // namespace spicore::emulation

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char *cudaGetErrorName(cudaError_t status) {
  return status == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration"
                                                 : "cudaErrorLaunchFailure";
}

const char *cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidConfiguration ? "invalid configuration argument"
                                                 : spicore::emulation::failure.c_str();
}

cudaError_t cudaGetDeviceCount(int *count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int) {
  *value = int(spicore::emulation::kMostSharedBytes);
  return cudaSuccess;
}
