#include "spicore/simd.hpp"

#include <atomic>
#if SPICORE_SIMD_LEVELS == 4
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace spicore::cpu {
namespace {

std::atomic<Simd> &chosen() {
  static std::atomic<Simd> simd{best_simd()};
  return simd;
}

#if SPICORE_SIMD_LEVELS == 4
// Whether there are bf16 tiles and the system saves them; Linux does so for a process
// that asks (Documentation/arch/x86/xstate.rst).
bool request_amx() {
  unsigned a, b, c, d;
  constexpr unsigned osxsave = 1u << 27, bf16 = 1u << 22, tile = 1u << 24;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave))
    return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & bf16) || !(d & tile))
    return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned tile_state = 3u << 17; // of XCR0: configuration and data
  constexpr int request_permission = 0x1023, tile_data = 18;
  return (low & tile_state) == tile_state &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

bool has_amx() {
  static const bool granted = request_amx();
  return granted;
}
#elif SPICORE_SIMD_LEVELS == 3
bool has_amx() { return false; }
#endif

} // namespace

Simd best_simd() {
#if SPICORE_SIMD_LEVELS >= 3
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return has_amx() ? Simd::amx : Simd::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    return Simd::avx2;
#endif
  return Simd::baseline;
}

Simd current_simd() { return chosen(); }

void set_simd(Simd simd) { chosen() = simd; }

const char *name(Simd simd) {
  constexpr const char *names[] = {"baseline", "avx2", "avx512", "amx"};
  return names[int(simd)];
}

} // namespace spicore::cpu
