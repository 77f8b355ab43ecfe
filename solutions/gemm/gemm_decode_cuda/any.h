// The product for what `stream.h` cannot take: rows that do not start on 16 bytes, a device with little shared memory.
#pragma once

#include "stream.h"

namespace fib {

constexpr int ANY_WARPS = 4, ANY_ROWS = 8;

// A warp a row of the weight, eight rows of A at a time.
__global__ void __launch_bounds__(32 * ANY_WARPS) any_product(const Product p) {
  let_next_start();
  await_previous();
  const int lane = threadIdx.x & 31, n = blockIdx.x * ANY_WARPS + (threadIdx.x >> 5), m0 = blockIdx.y * ANY_ROWS;
  if (n >= p.n) return;
  const __nv_bfloat16* weight = p.b + n * p.b_step;
  float sum[ANY_ROWS] = {};
  for (int k = lane; k < p.k; k += 32) {
    const float w = __bfloat162float(weight[k]);
#pragma unroll
    for (int i = 0; i < ANY_ROWS; ++i) {
      if (m0 + i < p.m) sum[i] += __bfloat162float(p.a[(m0 + i) * p.a_step + k]) * w;
    }
  }
#pragma unroll
  for (int i = 0; i < ANY_ROWS; ++i) {
#pragma unroll
    for (int apart = 16; apart; apart >>= 1) sum[i] += __shfl_xor_sync(~0u, sum[i], apart);
    if (lane == 0 && m0 + i < p.m) p.c[(m0 + i) * p.c_step + n] = __float2bfloat16(sum[i]);
  }
}

inline cudaError_t any(const Product& p, bool chained, cudaStream_t on) {
  const dim3 grid((p.n + ANY_WARPS - 1) / ANY_WARPS, (p.m + ANY_ROWS - 1) / ANY_ROWS);
  return launch(any_product, grid, 32 * ANY_WARPS, 0, chained, on, p);
}

}  // namespace fib
