// Which instruction set the CPU kernels run on.
#pragma once

namespace spicore::cpu {

enum class Simd { baseline = 0, avx2 = 1, avx512 = 2, amx = 3 };

Simd best_simd();         // what this machine can run
Simd current_simd();      // what is in use: the best, unless set_simd was called
void set_simd(Simd simd); // for tests and benchmarks
const char *name(Simd simd);

} // namespace spicore::cpu
