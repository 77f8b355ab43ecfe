// The product of a stored weight with the few rows of a decode step by the copy engine: some warps ask for long pieces of
// the weight's rows, far ahead, and the others multiply what has come. All of A that a block needs stays beside it.
//
// C blocks of a cluster share K and add up through each other's shared memory, for a K whose rows of A would not fit or
// an N that gives too few tiles. Needs compute capability 9, K a multiple of 32, and rows that start on 16 bytes.
#pragma once

#include "chain.h"
#include "product.h"
#include "ptx.h"

namespace fib {

// R x 16 rows of the weight and NT x 8 rows of A make a tile; W warps share a stage of KC values of K.
template <int R, int NT, int W, int KC, int C>
struct Ring {
  static constexpr int ROWS = 16 * R, TOKENS = 8 * NT, OUT = ROWS * TOKENS;
  // A copy takes one thread of a warp some 30 cycles: one warp alone could not ask for short rows fast enough.
  static constexpr int COPIERS = 4;
  static constexpr int WORKERS = 32 * W, THREADS = WORKERS + 32 * COPIERS;
  // Rows 64 bytes off a multiple of 128: a quarter of a warp reads two of them at once, from different banks.
  static constexpr int PITCH = KC * 2 | 64, STAGE = ROWS * PITCH;
  static constexpr int MOST = 16;                            // stages
  static constexpr int BARRIERS = 3 * 128;                   // bytes: two for each stage and one
  static constexpr int SUMS = 2 * W * OUT * 4;               // of the warps, for two tiles in turns
  static constexpr int GROUPS = KC / (32 * W);               // of 32 values of K, for a warp
  static_assert(KC % (32 * W) == 0 && GROUPS >= 1);
};

// How a product is cut, and what lies where in shared memory; made by the host.
struct Cut {
  int share;    // values of K for a block of a cluster, a multiple of 32; the last may have less
  int pitch;    // bytes from row to row of A in shared memory
  int tiles;    // of a cluster, at most
  int stages;
  int parts;    // offset of the sums that wait for the other blocks of the cluster
  int sums;
  int queue;
  int bytes;    // in all
};

template <int R, int NT, int W, int KC, int C> inline Cut cut_for(const Product& p, int clusters, int shared) {
  using P = Ring<R, NT, W, KC, C>;
  Cut cut = {};
  cut.share = ((p.k / 32 + C - 1) / C) * 32;
  cut.pitch = cut.share * 2 | 64;
  cut.tiles = ((p.n + P::ROWS - 1) / P::ROWS + clusters - 1) / clusters;
  cut.parts = P::BARRIERS + (min(p.m, P::TOKENS) * cut.pitch + 127) / 128 * 128;
  cut.sums = cut.parts + (C > 1 ? cut.tiles * P::OUT * 4 : 0);
  cut.queue = cut.sums + P::SUMS;
  cut.stages = cut.queue >= shared ? 0 : min((shared - cut.queue) / P::STAGE, P::MOST);
  cut.bytes = cut.queue + cut.stages * P::STAGE;
  return cut;
}

template <int R, int NT, int W, int KC, int C>
__global__ void __launch_bounds__(Ring<R, NT, W, KC, C>::THREADS, 1) ring_product(const Product p, const Cut cut) {
#if FIB_HOPPER
  using P = Ring<R, NT, W, KC, C>;
  FIB_SHARED(memory);
  Barrier* full = reinterpret_cast<Barrier*>(memory);
  Barrier* empty = full + P::MOST;
  Barrier* kept = empty + P::MOST;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int rank = C > 1 ? cluster_rank() : 0, cluster = blockIdx.x / C, clusters = gridDim.x / C;
  const int m0 = blockIdx.y * P::TOKENS, rows = min(P::TOKENS, p.m - m0);
  const int k_first = rank * cut.share, k_count = max(min(cut.share, p.k - k_first), 0);
  const int steps = (k_count + KC - 1) / KC, all = (p.n + P::ROWS - 1) / P::ROWS;
  // Clusters begin at different places of K: they run in step, and rows lie a power of two apart, so that all would ask
  // the same few of the memory's channels at once.
  const int turn = steps ? cluster % steps : 0;
  auto turned = [&](int step) { return step + turn < steps ? step + turn : step + turn - steps; };

  if (threadIdx.x == 0) {
    for (int s = 0; s < cut.stages; ++s) {
      barrier_init(full + s, P::COPIERS);
      barrier_init(empty + s, W);
    }
    barrier_init(kept, P::COPIERS);
    barriers_ready();
  }
  __syncthreads();

  if (warp >= W) {
    // This warp copies each fourth row. The weight first, as far as the queue goes: only A waits for the kernels before.
    const uint64_t policy = read_once();
    const int copier = warp - W;
    int stage = 0, round = 0, left = cut.stages;
    auto own = [&](int count) { return (count - copier + P::COPIERS - 1) / P::COPIERS; };
    auto await_rows = [&] {
      await_previous();
      let_next_start();
      if (lane != 0) return;
      arrive_and_expect(kept, own(rows) * k_count * 2);
      if (k_count == 0) return;
      for (int r = copier; r < rows; r += P::COPIERS) {
        copy(memory + P::BARRIERS + r * cut.pitch, p.a + (m0 + r) * p.a_step + k_first, k_count * 2, kept);
      }
    };
    for (int tile = cluster; tile < all; tile += clusters) {
      const int first = tile * P::ROWS, count = min(P::ROWS, p.n - first);
      for (int step = 0; step < steps; ++step) {
        if (left-- == 0) await_rows();
        if (round > 0) await(empty + stage, (round - 1) & 1);
        if (lane == 0) {
          const int k = turned(step) * KC, bytes = min(KC, k_count - k) * 2;
          arrive_and_expect(full + stage, own(count) * bytes);
          const __nv_bfloat16* from = p.b + (first + copier) * p.b_step + k_first + k;
          unsigned char* to = memory + cut.queue + stage * P::STAGE + copier * P::PITCH;
#pragma unroll
          for (int i = 0; i < P::ROWS / P::COPIERS; ++i) {
            if (copier + i * P::COPIERS >= count) break;
            copy_once(to + i * P::COPIERS * P::PITCH, from + i * P::COPIERS * p.b_step, bytes, full + stage, policy);
          }
        }
        if (++stage == cut.stages) stage = 0, ++round;
      }
    }
    if (left >= 0) await_rows();
  } else {
    const int g = lane >> 2, t = lane & 3;
    const unsigned char* a = memory + P::BARRIERS + g * cut.pitch + t * 16;
    float* waiting = reinterpret_cast<float*>(memory + cut.parts);
    int stage = 0, round = 0, half = 0;
    await_previous();
    await(kept, 0);
    for (int tile = cluster; tile < all; tile += clusters) {
      float sum[R][NT][4] = {};
      for (int step = 0; step < steps; ++step) {
        await(full + stage, round & 1);
        const unsigned char* mine = memory + cut.queue + stage * P::STAGE + g * P::PITCH + t * 16;
        const int first = turned(step) * KC, left = k_count - first;
        auto add_group = [&](int c) {
          const int k = (c * W + warp) * 32;
          uint4 x[NT];
#pragma unroll
          for (int j = 0; j < NT; ++j) {
            x[j] = make_uint4(0, 0, 0, 0);
            if (8 * j + g < rows) {
              x[j] = *reinterpret_cast<const uint4*>(a + 8 * j * cut.pitch + (first + k) * 2);
            }
          }
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const uint4 low = *reinterpret_cast<const uint4*>(mine + 16 * r * P::PITCH + k * 2);
            const uint4 high = *reinterpret_cast<const uint4*>(mine + (16 * r + 8) * P::PITCH + k * 2);
#pragma unroll
            for (int j = 0; j < NT; ++j) {
              // The order of K is ours to choose: a thread takes 8 neighbours, the same of both operands.
              multiply(sum[r][j], low.x, high.x, low.y, high.y, x[j].x, x[j].y);
              multiply(sum[r][j], low.z, high.z, low.w, high.w, x[j].z, x[j].w);
            }
          }
        };
        if (left >= KC) {  // without a branch between them all groups' loads can be on their way at once
#pragma unroll
          for (int c = 0; c < P::GROUPS; ++c) add_group(c);
        } else {
          for (int c = 0; (c * W + warp) * 32 < left; ++c) add_group(c);
        }
        __syncwarp();
        if (lane == 0) arrive(empty + stage);
        if (++stage == cut.stages) stage = 0, ++round;
      }

      // The warps' sums meet, always in the same order; two buffers, so that one barrier a tile is enough.
      float* sums = reinterpret_cast<float*>(memory + cut.sums) + half * W * P::OUT;
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
          for (int q = 0; q < 4; ++q) sums[warp * P::OUT + ((r * NT + j) * 4 + q) * 32 + lane] = sum[r][j][q];
      meet(P::WORKERS);
      for (int o = threadIdx.x; o < rows * P::ROWS; o += P::WORKERS) {
        const int token = o / P::ROWS, row = o % P::ROWS, n = tile * P::ROWS + row;
        const int at = (((row >> 4) * NT + (token >> 3)) * 4 + ((row & 8) >> 2) + (token & 1)) * 32 + (row & 7) * 4 +
                       ((token & 7) >> 1);
        float value = 0.0f;
#pragma unroll
        for (int w = 0; w < W; ++w) value += sums[w * P::OUT + at];
        if (C > 1) {
          waiting[o] = value;
        } else if (n < p.n) {
          p.c[(m0 + token) * p.c_step + n] = __float2bfloat16(value);
        }
      }
      waiting += P::OUT;
      half ^= 1;
    }
  }

  if constexpr (C > 1) {
    meet_cluster();
    // Each block finishes a share of the cluster's tiles.
    const float* waiting = reinterpret_cast<const float*>(memory + cut.parts);
    for (int i = rank, tile = cluster + rank * clusters; tile < all; i += C, tile += C * clusters) {
      for (int o = threadIdx.x; o < rows * P::ROWS; o += P::THREADS) {
        const int token = o / P::ROWS, n = tile * P::ROWS + o % P::ROWS;
        float value = 0.0f;
#pragma unroll
        for (int peer = 0; peer < C; ++peer) value += read_peer(waiting + i * P::OUT + o, peer);
        if (n < p.n) p.c[(m0 + token) * p.c_step + n] = __float2bfloat16(value);
      }
    }
    meet_cluster();  // nobody leaves while its sums are read
  }
#endif
}

// At least so many bytes of the weight must be on their way to a block, else the plan is not worth a launch.
constexpr int LEAST_AHEAD = 48 * 1024;

template <int R, int NT, int W, int KC, int C>
cudaError_t ring(const Product& p, bool chained, const Hardware& on, cudaStream_t stream) {
  using P = Ring<R, NT, W, KC, C>;
  const auto kernel = ring_product<R, NT, W, KC, C>;
  if (on.major < 9 || p.k % 32) return cudaErrorNotSupported;
  thread_local int resident[64] = {};  // clusters that a device holds at once; a second turn would cost as much again
  int& most = resident[on.device & 63];
  if (most == 0) {
    const cudaError_t problem =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, on.shared);
    if (problem != cudaSuccess) return problem;
    const int found = C == 1 ? on.processors : clusters_at_once(kernel, C, P::THREADS, on.shared);
    if (found < 1) return cudaErrorNotSupported;
    most = found;
  }
  const int clusters = min((p.n + P::ROWS - 1) / P::ROWS, most);
  const Cut cut = cut_for<R, NT, W, KC, C>(p, clusters, on.shared);
  if (cut.stages < 3 || cut.stages * P::STAGE < LEAST_AHEAD) return cudaErrorNotSupported;
  const dim3 grid(clusters * C, (p.m + P::TOKENS - 1) / P::TOKENS);
  return launch_clusters(kernel, grid, C, P::THREADS, cut.bytes, chained, stream, p, cut);
}

}  // namespace fib
