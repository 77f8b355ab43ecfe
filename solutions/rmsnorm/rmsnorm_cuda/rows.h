// RMSNorm of rows that one block holds in registers, alone and after a residual add.
#pragma once

#include <cstdint>

#include "chain.h"
#include "eight.h"

namespace fib {

struct Norm {
  const __nv_bfloat16 *x, *residual, *weight;
  __nv_bfloat16 *out, *total;
  int n;
  int64_t x_step, residual_step, out_step, total_step;
  float eps, part;  // part: 1 / n
};

template <int T> __device__ __forceinline__ float block_sum(float value) {
  __shared__ float parts[T / 32];
#pragma unroll
  for (int apart = 16; apart; apart >>= 1) value += __shfl_xor_sync(~0u, value, apart);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  value = parts[threadIdx.x & (T / 32 - 1)];
#pragma unroll
  for (int apart = T / 64; apart; apart >>= 1) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}

// T threads, V pieces of 8 values each. Rows must start on 16 bytes and n be a multiple of 8.
template <int T, int V, bool ADD>
__global__ void __launch_bounds__(T) norm_rows(const Norm p) {
  let_next_start();
  const int64_t row = blockIdx.x;
  // Only a hint to the second-level cache: it must not keep the row waiting.
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * T + threadIdx.x) * 8;
    if (i < p.n) asm volatile("prefetch.global.L2 [%0];" ::"l"(p.weight + i));
  }
  await_previous();
  Eight read[V], added[V], weight[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * T + threadIdx.x) * 8;
    if (i < p.n) {
      read[v] = *reinterpret_cast<const Eight*>(p.x + row * p.x_step + i);
      if (ADD) added[v] = *reinterpret_cast<const Eight*>(p.residual + row * p.residual_step + i);
    }
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * T + threadIdx.x) * 8;
    if (i < p.n) weight[v] = *reinterpret_cast<const Eight*>(p.weight + i);
  }
  float x[V][8], squares = 0.0f;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * T + threadIdx.x) * 8;
    if (i >= p.n) continue;
    Eight sum;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float2 value = __bfloat1622float2(read[v].pair[j]);
      if (ADD) {
        const float2 more = __bfloat1622float2(added[v].pair[j]);
        value.x += more.x, value.y += more.y;
        sum.pair[j] = __float22bfloat162_rn(value);
      }
      x[v][2 * j] = value.x, x[v][2 * j + 1] = value.y;
      squares += value.x * value.x + value.y * value.y;
    }
    if (ADD) *reinterpret_cast<Eight*>(p.total + row * p.total_step + i) = sum;
  }
  const float scale = rsqrtf(block_sum<T>(squares) * p.part + p.eps);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * T + threadIdx.x) * 8;
    if (i >= p.n) continue;
    Eight y;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 w = __bfloat1622float2(weight[v].pair[j]);
      y.pair[j] = __floats2bfloat162_rn(x[v][2 * j] * scale * w.x, x[v][2 * j + 1] * scale * w.y);
    }
    *reinterpret_cast<Eight*>(p.out + row * p.out_step + i) = y;
  }
}

// Rows of any length and alignment, read twice.
template <bool ADD>
__global__ void __launch_bounds__(256) norm_any(const Norm p) {
  constexpr int T = 256;
  let_next_start();
  await_previous();
  const int64_t row = blockIdx.x;
  auto value = [&](int i) {
    float v = __bfloat162float(p.x[row * p.x_step + i]);
    if (ADD) v += __bfloat162float(p.residual[row * p.residual_step + i]);
    return v;
  };
  float squares = 0.0f;
  for (int i = threadIdx.x; i < p.n; i += T) {
    const float v = value(i);
    squares += v * v;
  }
  const float scale = rsqrtf(block_sum<T>(squares) * p.part + p.eps);
  for (int i = threadIdx.x; i < p.n; i += T) {
    const float v = value(i);
    if (ADD) p.total[row * p.total_step + i] = __float2bfloat16(v);
    p.out[row * p.out_step + i] = __float2bfloat16(v * scale * __bfloat162float(p.weight[i]));
  }
}

template <bool ADD>
cudaError_t norm(const Norm& p, int rows, bool aligned, bool chained, cudaStream_t stream) {
  auto run = [&](void (*kernel)(Norm), int threads) {
    return launch(kernel, dim3(rows), threads, 0, chained, stream, p);
  };
  if (!aligned || p.n % 8 || p.n > 16384) return run(norm_any<ADD>, 256);
  // Few warps: at a row a block their number costs more than it brings.
  if (p.n <= 1024) return run(norm_rows<128, 1, ADD>, 128);
  if (p.n <= 2048) return run(norm_rows<128, 2, ADD>, 128);
  if (p.n <= 4096) return run(norm_rows<128, 4, ADD>, 128);
  return p.n <= 8192 ? run(norm_rows<256, 4, ADD>, 256) : run(norm_rows<512, 4, ADD>, 512);
}

}  // namespace fib
