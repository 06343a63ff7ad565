#include "spicore/simd.hpp"

#include <atomic>

namespace spicore::cpu {
namespace {

std::atomic<Simd> &chosen() {
  static std::atomic<Simd> simd{best_simd()};
  return simd;
}

} // namespace

Simd best_simd() {
#if SPICORE_SIMD_LEVELS == 3
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Simd::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    return Simd::avx2;
#endif
  return Simd::baseline;
}

Simd current_simd() { return chosen(); }

void set_simd(Simd simd) { chosen() = simd; }

const char *name(Simd simd) {
  return simd == Simd::avx512 ? "avx512" : simd == Simd::avx2 ? "avx2" : "baseline";
}

} // namespace spicore::cpu
