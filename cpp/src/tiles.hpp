// Tiles of 16 rows x 64 bytes that multiply pairs of bf16 (Intel AMX), or the same in
// software for every other instruction set. Only for files in src/.
//
//   load<i>, store<i>  tile i, its rows `stride` bytes apart
//   multiply<c, a, b>  c[f][v] += sum_k a[f][2k] b[k][2v] + a[f][2k+1] b[k][2v+1]
//
// Elements 2k and 2k + 1 are the low and the high half of a 32-bit word.
#pragma once

#include <cstdint>
#include <cstring>

#include "angular_fft.hpp"

namespace spicore::cpu::SPICORE_SIMD {
namespace {

constexpr int kTile = 16;                 // rows, and 32-bit words of a row
constexpr int kTileLine = 4 * kTile;      // bytes
constexpr std::uint32_t kHigh = 1u << 31; // sign of the high half of a word

typedef std::uint32_t u32n __attribute__((vector_size(4 * kNative)));

// Rounds x to the nearest bf16, ties to even, in the high half of a word, and leaves what
// is lost.
SPICORE_INLINE u32n take_bf16(f32n &x) {
  u32n bits = (u32n)x;
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  x -= (f32n)bits;
  return bits;
}

// Rows of words (re, im), `stride` words apart: the rounded pairs, what was lost, ...
SPICORE_INLINE void pack_pairs(const float *re, const float *im, int parts, int stride,
                               std::uint32_t *to) {
  for (int lane = 0; lane < kTile; lane += kNative) {
    f32n r = load_native(re + lane), i = load_native(im + lane);
    for (int part = 0; part < parts; ++part) {
      const u32n words = take_bf16(r) >> 16 | take_bf16(i);
      std::memcpy(to + part * stride + lane, &words, sizeof words);
    }
  }
}

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)

// Assembly and not <immintrin.h>: GCC 12's tile intrinsics do not tell the compiler that
// they read memory, and take no template parameter for a tile.
class Tiles {
public:
  void configure() {
    static constexpr Shapes shapes;
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }

  void release() { asm volatile("tilerelease"); }

  template <int i> void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(i)); }

  template <int i> void load(const std::uint32_t *from, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(from), "r"(stride), "i"(i)
                 : "memory");
  }

  template <int i> void store(float *to, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
                 :
                 : "r"(to), "r"(stride), "i"(i)
                 : "memory");
  }

  template <int c, int a, int b> void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }

private:
  struct alignas(64) Shapes { // palette 1: eight tiles
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {kTileLine, kTileLine, kTileLine, kTileLine,
                               kTileLine, kTileLine, kTileLine, kTileLine};
    std::uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
  };
  static_assert(sizeof(Shapes) == 64);
};

#else

// As the manual says: sums over even and odd elements from zero, in this order, then
// their sum to the tile. A product of two bf16 is exact in float32, so that it is the
// same whether fused or not. (Hardware takes subnormals for 0.)
class Tiles {
public:
  void configure() {}
  void release() {}

  template <int i> void zero() { std::memset(tile_[i], 0, sizeof tile_[i]); }

  template <int i> void load(const std::uint32_t *from, std::int64_t stride) {
    for (int row = 0; row < kTile; ++row)
      std::memcpy(tile_[i][row], (const char *)from + row * stride, kTileLine);
  }

  template <int i> void store(float *to, std::int64_t stride) {
    for (int row = 0; row < kTile; ++row)
      std::memcpy((char *)to + row * stride, tile_[i][row], kTileLine);
  }

  template <int c, int a, int b> void multiply() {
    for (int lane = 0; lane < kTile; lane += kNative)
      multiply_lanes(tile_[c], tile_[a], tile_[b], lane);
  }

private:
  using Tile = std::uint32_t[kTile][kTile];

  static void multiply_lanes(Tile &c, const Tile &a, const Tile &b, int lane) {
    f32n low[kTile], high[kTile];
    for (int k = 0; k < kTile; ++k) {
      u32n words;
      std::memcpy(&words, b[k] + lane, sizeof words);
      low[k] = (f32n)(words << 16);
      high[k] = (f32n)(words & 0xffff0000);
    }
    for (int f = 0; f < kTile; ++f) {
      f32n even = {}, odd = {}, sum;
      for (int k = 0; k < kTile; ++k) {
        even += as_float(a[f][k] << 16) * low[k];
        odd += as_float(a[f][k] & 0xffff0000) * high[k];
      }
      std::memcpy(&sum, c[f] + lane, sizeof sum);
      sum += even + odd;
      std::memcpy(c[f] + lane, &sum, sizeof sum);
    }
  }

  static float as_float(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  alignas(64) Tile tile_[8];
};

#endif

} // namespace
} // namespace spicore::cpu::SPICORE_SIMD
