// Portable 16-lane float vector (GCC/Clang vector extension): one zmm, two ymm or four
// xmm, as the file that includes it is compiled for. Only for files in src/.
#pragma once

#include <cstring>

namespace spicore {

typedef float f32x16 __attribute__((vector_size(64)));

inline __attribute__((always_inline)) f32x16 load16(const float *p) {
  f32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline __attribute__((always_inline)) void store16(float *p, f32x16 v) {
  std::memcpy(p, &v, sizeof v);
}

} // namespace spicore
