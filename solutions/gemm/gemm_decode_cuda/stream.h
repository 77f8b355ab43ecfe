// The product of a stored weight with the few rows of a decode step, as fast as the weight can be read: every thread
// keeps a queue of its own pieces of the weight in flight, and no other thread ever touches them.
#pragma once

#include "chain.h"
#include "product.h"
#include "ptx.h"

namespace fib {

// R x 16 rows of the weight and NT x 8 rows of A make a tile, whose K is shared by the W warps of a block. A warp takes
// KS x 32 values of K at a step, and KB kilobytes hold the queue and the sums. KEEP: A stays in shared memory, beside
// them; else it runs through the queue with the weight, for each tile anew.
template <int R, int NT, int W, int KS, bool KEEP, int KB>
struct Plan {
  static constexpr int THREADS = 32 * W, ROWS = 16 * R, TOKENS = 8 * NT, OUT = ROWS * TOKENS;
  static constexpr int PIECES = KS * (2 * R + (KEEP ? 0 : NT)), STEP = PIECES * THREADS * 16;
  static constexpr int KEPT = KEEP ? KS * NT * THREADS * 16 : 0;
  // Large sums meet in half the space, at the price of two more barriers a tile.
  static constexpr bool TIGHT = 2 * W * OUT * 4 > 40 * 1024;
  static constexpr int PARTS = TIGHT ? W / 2 : W, SUMS = (TIGHT ? 1 : 2) * PARTS * OUT * 4;
  static constexpr int FIT = (KB * 1024 - SUMS) / STEP, DEPTH = FIT < 16 ? FIT : 16;
  static constexpr int SHARED = DEPTH * STEP + SUMS;
  static_assert(DEPTH >= 3, "the queue is too short to hide anything");
};

// K must be a multiple of 8 and every row start on 16 bytes; M, N are any.
//
// A thread of the tensor cores' fragments needs pairs of K that lie 16 bytes apart. The order of K is ours to choose:
// each thread takes 8 neighbours instead, the same of both operands. Whole 16-byte pieces, no shuffles, no barrier.
template <int R, int NT, int W, int KS, bool KEEP, int KB>
__global__ void __launch_bounds__(32 * W, 1) stream_product(const Product p) {
  using P = Plan<R, NT, W, KS, KEEP, KB>;
  FIB_SHARED(memory);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int block = blockIdx.x, blocks = gridDim.x, tiles = (p.n + P::ROWS - 1) / P::ROWS;
  constexpr int K_STEP = W * KS * 32;
  const int steps = (p.k + K_STEP - 1) / K_STEP, total = (tiles - block + blocks - 1) / blocks * steps;
  const int k_first = warp * KS * 32 + t * 8, m0 = blockIdx.y * P::TOKENS;
  // Blocks begin at different places of K: they run in step, and would all ask for the same lines of A at once.
  const int turn = block % steps;
  const uint32_t queue = shared_address(memory) + threadIdx.x * 16;
  const uint64_t policy = read_once();

  int issued = 0, weight_step = turn, weight_row = block * P::ROWS + g;
  const __nv_bfloat16* weight = p.b + weight_row * p.b_step;
  auto fetch_weight = [&](int place) {
    const uint32_t to = queue + place * P::STEP;
    const int k0 = k_first + weight_step * K_STEP;
#pragma unroll
    for (int i = 0; i < 2 * R; ++i) {
#pragma unroll
      for (int c = 0; c < KS; ++c) {
        const int k = k0 + 32 * c;
        const bool inside = k < p.k && weight_row + 8 * i < p.n;
        const __nv_bfloat16* from = inside ? weight + 8 * i * p.b_step + k : p.b;
        fetch_once(to + (c * 2 * R + i) * P::THREADS * 16, from, inside, policy);
      }
    }
    if (++weight_step == steps) weight_step = 0;
    if (weight_step == turn) {
      weight_row += blocks * P::ROWS;
      weight += blocks * P::ROWS * p.b_step;
    }
  };
  int row_step = turn;
  auto fetch_rows = [&](int place) {
    const int offset = KEEP ? P::SHARED + row_step * P::KEPT : place * P::STEP + KS * 2 * R * P::THREADS * 16;
    const uint32_t to = queue + offset;
    const int k0 = k_first + row_step * K_STEP;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const int token = m0 + 8 * j + g;
#pragma unroll
      for (int c = 0; c < KS; ++c) {
        const int k = k0 + 32 * c;
        const bool inside = k < p.k && token < p.m;
        fetch(to + (c * NT + j) * P::THREADS * 16, inside ? p.a + token * p.a_step + k : p.a, inside);
      }
    }
    if (++row_step == steps) row_step = 0;
  };

#pragma unroll 1
  for (; issued < P::DEPTH - 1; ++issued) {
    if (issued < total) fetch_weight(issued);
    close_group();
  }
  await_previous();
  let_next_start();
#pragma unroll 1
  for (int i = 0; i < P::DEPTH - 1; ++i) {
    if (i < (KEEP ? steps : total)) fetch_rows(i);
    close_group();
  }

  float sum[R][NT][4] = {};
  int place = 0, last = P::DEPTH - 1, step = turn, first = block * P::ROWS, half = 0;
#pragma unroll 1
  for (int i = 0; i < total; ++i) {
    await_groups<P::DEPTH - 2>();
    const uint4* mine = reinterpret_cast<const uint4*>(memory + place * P::STEP) + threadIdx.x;
    const uint4* rows = mine + KS * 2 * R * P::THREADS;
    if constexpr (KEEP) rows = reinterpret_cast<const uint4*>(memory + P::SHARED + step * P::KEPT) + threadIdx.x;
    // The place that the step before this one emptied.
    if (issued < total) {
      fetch_weight(last);
      if (!KEEP || issued < steps) fetch_rows(last);
      ++issued;
    }
    close_group();
#pragma unroll
    for (int c = 0; c < KS; ++c) {
      uint4 x[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j) x[j] = rows[(c * NT + j) * P::THREADS];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const uint4 low = mine[(c * 2 * R + 2 * r) * P::THREADS], high = mine[(c * 2 * R + 2 * r + 1) * P::THREADS];
#pragma unroll
        for (int j = 0; j < NT; ++j) {
          multiply(sum[r][j], low.x, high.x, low.y, high.y, x[j].x, x[j].y);
          multiply(sum[r][j], low.z, high.z, low.w, high.w, x[j].z, x[j].w);
        }
      }
    }
    last = place;
    if (++place == P::DEPTH) place = 0;
    if (++step == steps) step = 0;
    if (step != turn) continue;

    // The warps' sums meet, always in the same order. Two buffers, so that one barrier a tile is enough.
    float* sums = reinterpret_cast<float*>(memory + P::DEPTH * P::STEP) + (P::TIGHT ? 0 : half * W * P::OUT);
    float* own = sums + warp % P::PARTS * P::OUT + lane;
    auto each_sum = [&](auto&& visit) {
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
          for (int q = 0; q < 4; ++q) visit(own[((r * NT + j) * 4 + q) * 32], sum[r][j][q]);
    };
    if constexpr (P::TIGHT) {
      if (warp >= P::PARTS) each_sum([](float& to, float from) { to = from; });
      __syncthreads();
      if (warp < P::PARTS) each_sum([](float& to, float from) { to += from; });
    } else {
      each_sum([](float& to, float from) { to = from; });
    }
    each_sum([](float&, float& from) { from = 0.0f; });
    __syncthreads();
    const int count = min(P::TOKENS, p.m - m0) * P::ROWS;
    for (int o = threadIdx.x; o < count; o += P::THREADS) {
      const int token = o / P::ROWS, row = o % P::ROWS, n = first + row;
      const int at = (((row >> 4) * NT + (token >> 3)) * 4 + ((row & 8) >> 2) + (token & 1)) * 32 + (row & 7) * 4 +
                     ((token & 7) >> 1);
      float value = 0.0f;
#pragma unroll
      for (int w = 0; w < P::PARTS; ++w) value += sums[w * P::OUT + at];
      if (n < p.n) p.c[(m0 + token) * p.c_step + n] = __float2bfloat16(value);
    }
    if constexpr (P::TIGHT) __syncthreads();
    half ^= 1;
    first += blocks * P::ROWS;
  }
}

template <int R, int NT, int W, int KS, bool KEEP, int KB>
cudaError_t stream(const Product& p, bool chained, const Hardware& on, cudaStream_t stream) {
  using P = Plan<R, NT, W, KS, KEEP, KB>;
  const auto kernel = stream_product<R, NT, W, KS, KEEP, KB>;
  constexpr int K_STEP = W * KS * 32;
  const size_t shared = P::SHARED + static_cast<size_t>((p.k + K_STEP - 1) / K_STEP) * P::KEPT;
  const cudaError_t problem =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (problem != cudaSuccess) return problem;
  const dim3 grid(min((p.n + P::ROWS - 1) / P::ROWS, on.processors), (p.m + P::TOKENS - 1) / P::TOKENS);
  return launch(kernel, grid, P::THREADS, shared, chained, stream, p);
}

}  // namespace fib
