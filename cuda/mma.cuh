// Products of small matrices by a warp on tensor cores: C[16][8] += A[16][16] B[16][8],
// of bf16, summed in float32. Lane 4 g + t holds
//
//   A   rows g, g + 8, g, g + 8, each the pair of columns 2 t (then + 8) and the next
//   B   of column g the pair of rows 2 t, then 2 t + 8, and the next
//   C   rows g, g, g + 8, g + 8 at columns 2 t, 2 t + 1, 2 t, 2 t + 1
//
// The first of a pair is the low half of a word. (PTX manual, mma.m16n8k16.)
#pragma once

#include <cuda_runtime.h>

namespace spicore::cuda {
namespace {

#ifdef SPICORE_EMULATED

inline unsigned round_to_bf16(float x) { // in the high half of a word
  const unsigned bits = __float_as_uint(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
}

// A pair rounded to the nearest bf16, ties to even.
inline unsigned round_pair(float first, float second) {
  return round_to_bf16(first) >> 16 | round_to_bf16(second);
}

struct Fragments {
  unsigned a[4], b[2];
  float c[4];
};

inline float half_of(unsigned word, int high) {
  return __uint_as_float(high ? word & 0xffff0000 : word << 16);
}

inline void multiply_together(void *const *parts) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto &own = *static_cast<Fragments *>(parts[lane]);
    for (int i = 0; i < 8; ++i)
      a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i / 4 * 8 + i % 2] =
          half_of(own.a[i / 2], i % 2);
    for (int i = 0; i < 4; ++i)
      b[lane % 4 * 2 + i / 2 * 8 + i % 2][lane / 4] = half_of(own.b[i / 2], i % 2);
  }
  float c[16][8] = {};
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column)
        c[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      static_cast<Fragments *>(parts[lane])->c[i] +=
          c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  Fragments own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  emulation::wait_for_warp(~0u, &own, &multiply_together);
  std::memcpy(c, own.c, sizeof own.c);
}

#else

// A pair rounded to the nearest bf16, ties to even: one instruction, whose first operand
// goes to the high half.
__device__ __forceinline__ unsigned round_pair(float first, float second) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}

__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// A pair as `parts` words of bf16: rounded, what was lost, ...
template <int parts>
__device__ void split_pair(float first, float second, unsigned (&words)[parts]) {
  for (int part = 0; part < parts; ++part) {
    words[part] = round_pair(first, second);
    first -= __uint_as_float(words[part] << 16);
    second -= __uint_as_float(words[part] & 0xffff0000);
  }
}

} // namespace
} // namespace spicore::cuda
