// The part of cuFFT that is used, found when it is first needed: names and values are
// those of its C interface.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace spicore::cuda {

enum CufftType {
  kRealToComplex = 0x2a,
  kComplexToReal = 0x2c,
  kComplexToComplex = 0x29,
  kDoubleToComplex = 0x6a,
  kComplexToDouble = 0x6c,
  kDoubleComplex = 0x69
};

constexpr int kForward = -1, kInverse = 1;

struct Cufft {
  int (*create)(int *plan);
  int (*set_auto_allocation)(int plan, int enabled);
  int (*make_plan_many)(int plan, int rank, long long *n, long long *in_embed,
                        long long in_stride, long long in_distance, long long *out_embed,
                        long long out_stride, long long out_distance, int type,
                        long long batch, std::size_t *work_bytes);
  int (*set_work_area)(int plan, void *work);
  int (*set_stream)(int plan, cudaStream_t stream);
  int (*real_to_complex)(int plan, void *from, void *to);
  int (*complex_to_real)(int plan, void *from, void *to);
  int (*complex_to_complex)(int plan, void *from, void *to, int direction);
  int (*double_to_complex)(int plan, void *from, void *to);
  int (*complex_to_double)(int plan, void *from, void *to);
  int (*double_complex)(int plan, void *from, void *to, int direction);
};

// Throws CudaError where no cuFFT can be loaded.
const Cufft &cufft();

} // namespace spicore::cuda
