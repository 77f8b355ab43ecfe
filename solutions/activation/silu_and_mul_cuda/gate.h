// silu of the first half of a row times its second half.
#pragma once

#include <cstdint>

#include "chain.h"
#include "eight.h"

namespace fib {

struct Gate {
  const __nv_bfloat16* x;
  __nv_bfloat16* out;
  int d;
  int64_t x_step, out_step;
};

constexpr int GATE_THREADS = 256;

// The short division: its long form costs more time here than all the rest, and bfloat16 does not see the difference.
__device__ __forceinline__ float gated(float gate, float up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// Rows, and their halves, must start on 16 bytes.
__global__ void __launch_bounds__(GATE_THREADS) gate_pieces(const Gate p) {
  let_next_start();
  const int i = (blockIdx.y * GATE_THREADS + threadIdx.x) * 8;
  const __nv_bfloat16* row = p.x + blockIdx.x * p.x_step;
  await_previous();
  if (i >= p.d) return;
  const Eight gate = *reinterpret_cast<const Eight*>(row + i), up = *reinterpret_cast<const Eight*>(row + p.d + i);
  Eight y;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 a = __bfloat1622float2(gate.pair[j]), b = __bfloat1622float2(up.pair[j]);
    y.pair[j] = __floats2bfloat162_rn(gated(a.x, b.x), gated(a.y, b.y));
  }
  *reinterpret_cast<Eight*>(p.out + blockIdx.x * p.out_step + i) = y;
}

__global__ void __launch_bounds__(GATE_THREADS) gate_any(const Gate p) {
  let_next_start();
  await_previous();
  const int i = blockIdx.y * GATE_THREADS + threadIdx.x;
  if (i >= p.d) return;
  const __nv_bfloat16* row = p.x + blockIdx.x * p.x_step;
  const float y = gated(__bfloat162float(row[i]), __bfloat162float(row[p.d + i]));
  p.out[blockIdx.x * p.out_step + i] = __float2bfloat16(y);
}

inline cudaError_t gate(const Gate& p, int rows, bool aligned, bool chained, cudaStream_t stream) {
  const int each = aligned && p.d % 8 == 0 ? GATE_THREADS * 8 : GATE_THREADS;
  const dim3 grid(rows, (p.d + each - 1) / each);
  return launch(each == GATE_THREADS ? gate_any : gate_pieces, grid, GATE_THREADS, 0, chained, stream, p);
}

}  // namespace fib
