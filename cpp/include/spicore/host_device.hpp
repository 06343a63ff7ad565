// The only place that knows which compiler reads a header.
#pragma once

#if defined(__CUDACC__)
#define SPI_HD __host__ __device__ __forceinline__
#else
#define SPI_HD inline __attribute__((always_inline))
#endif
