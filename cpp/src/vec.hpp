// Portable 16-lane float vector (GCC/Clang vector extension): one zmm, two ymm or four
// xmm, as the file that includes it is compiled for. Only for files in src/.
#pragma once

#include <cstring>

namespace spicore {

typedef float f32x16 __attribute__((vector_size(64)));

// The widest vector of the instruction set compiled for. GCC keeps arrays of f32x16 in
// memory where it is wider than a register, which costs a factor of 20.
#if defined(__AVX512F__)
constexpr int kNative = 16;
#elif defined(__AVX__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif
typedef float f32n __attribute__((vector_size(4 * kNative)));

inline __attribute__((always_inline)) f32n load_native(const float *p) {
  f32n v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline __attribute__((always_inline)) void store_native(float *p, f32n v) {
  std::memcpy(p, &v, sizeof v);
}

inline __attribute__((always_inline)) f32x16 load16(const float *p) {
  f32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline __attribute__((always_inline)) void store16(float *p, f32x16 v) {
  std::memcpy(p, &v, sizeof v);
}

} // namespace spicore
