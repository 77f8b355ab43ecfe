// Which of the plans of `stream.h` a product takes.
#pragma once

#include "stream.h"

namespace fib {

using Launch = cudaError_t (*)(const Product&, bool, int, cudaStream_t);

// By rows of A and by how much of the weight a block has to itself: a single tile where that can be, else several, for
// which A is kept. Past 32 rows B is read again for every 32: right, but slow. Swept on an H100 at the shapes of
// Llama-3.1-8B; tests/reports/decode_gemm_gpu.json has the times.
inline Launch choose(const Product& p, int processors) {
  const int share = ((p.n + 15) / 16 + processors - 1) / processors;  // 16 rows of the weight each, for one block
  const bool kept = share > 3 && p.k <= 4096;                         // A fits beside the queue, and is used again
  if (p.m <= 8) {
    if (share == 3 && p.k <= 4096) return stream<3, 1, 4, 2, true, 162>;
    return kept ? stream<2, 1, 4, 4, true, 162> : stream<2, 1, 4, 4, false, 226>;
  }
  if (p.m <= 16) {
    if (share == 3) return stream<3, 2, 4, 4, false, 226>;
    return kept ? stream<2, 2, 4, 2, true, 98> : stream<2, 2, 4, 4, false, 226>;
  }
  const bool many = share > 32;
  if (p.m <= 24) {
    if (share == 3) return stream<3, 3, 4, 2, false, 226>;
    return many ? stream<4, 3, 4, 2, false, 226> : stream<2, 3, 8, 2, false, 226>;
  }
  if (share == 3) return stream<3, 4, 4, 2, false, 226>;
  if (many) return stream<4, 4, 4, 2, false, 226>;
  return share > 3 ? stream<7, 4, 4, 1, false, 226> : stream<2, 4, 8, 2, false, 226>;
}

}  // namespace fib
