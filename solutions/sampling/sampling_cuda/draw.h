// Top-k, top-p and top-k-then-top-p sampling by rejection: a cluster of C blocks keeps a row in their shared memory, so
// that the many passes over it cost no traffic.
//
// In the order of a row (heavier first, ties by index) both filters keep a prefix. A draw from what is left is taken if
// it lies in the prefix; else only what lies before it is left.
#pragma once

#include <cuda_runtime.h>

#include "chain.h"
#include "ptx.h"

namespace fib {

struct Draws {
  const float* probs;
  const int32_t* top_k;  // null: no such filter
  const float* top_p;
  int64_t* samples;
  int n;
  int64_t step;  // elements from row to row
  uint64_t seed;
};

constexpr int CUTS = 7;  // bounds that one pass of the search for the k-th weight tries

// What the threads of a block tell each other, and the blocks of a cluster.
struct Board {
  float warp_mass[32];
  int warp_count[32], warp_cuts[32][CUTS];
  int first, last;  // threads
  float mass, weight;
  int count, index, cuts[CUTS];
  uint32_t random[2];
};

// Calls and rows so far: a graph repeats the arguments of its launches, so what tells two draws apart lives here.
static __device__ unsigned long long draws_so_far;

// splitmix64 (Steele, Lea, Flood 2014).
__device__ __forceinline__ uint64_t mixed(uint64_t state) {
  uint64_t z = state + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

template <int C, int T> __global__ void __launch_bounds__(T) draw_rows(const Draws p) {
#if FIB_HOPPER
  constexpr int WARPS = T / 32;
  FIB_SHARED(memory);
  Board& board = *reinterpret_cast<Board*>(memory);
  float* weights = reinterpret_cast<float*>(memory + sizeof(Board));
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, rank = cluster_rank(), row = blockIdx.x / C;
  const int share = (p.n + C - 1) / C, begin = rank * share, own = max(min(share, p.n - begin), 0);

  await_previous();
  const float* from = p.probs + row * p.step + begin;
#pragma unroll 8
  for (int i = threadIdx.x; i < own; i += T) {
    const float weight = from[i];
    weights[i] = weight > 0.0f ? weight : 0.0f;
  }
  if (threadIdx.x == 0 && rank == 0) {
    const uint64_t random = mixed(p.seed ^ mixed(atomicAdd(&draws_so_far, 1ull)));
    board.random[0] = static_cast<uint32_t>(random);
    board.random[1] = static_cast<uint32_t>(random >> 32);
  }
  __syncthreads();

  // Positive weights before a place in the order: of this thread, of its warp up to it, of the block, of the cluster.
  float mine, up_to_mine, before_block, mass;
  int count;
  auto pass = [&](float weight, int index) {
    mine = 0.0f;
    int some = 0;
    for (int i = threadIdx.x; i < own; i += T) {
      const float w = weights[i];
      const bool ahead = w > 0.0f && (w > weight || (w == weight && begin + i < index));
      mine += ahead ? w : 0.0f;
      some += ahead;
    }
    up_to_mine = mine;
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
      const float below = __shfl_up_sync(~0u, up_to_mine, apart);
      if (lane >= apart) up_to_mine += below;
      some += __shfl_xor_sync(~0u, some, apart);
    }
    if (lane == 31) board.warp_mass[warp] = up_to_mine, board.warp_count[warp] = some;
    __syncthreads();
    if (threadIdx.x == 0) {
      board.mass = 0.0f, board.count = 0;
      for (int w = 0; w < WARPS; ++w) board.mass += board.warp_mass[w], board.count += board.warp_count[w];
    }
    __syncthreads();
    meet_cluster();
    mass = before_block = 0.0f, count = 0;
#pragma unroll
    for (int peer = 0; peer < C; ++peer) {
      if (peer == rank) before_block = mass;
      mass += read_peer(&board.mass, peer);
      count += read_peer(&board.count, peer);
    }
  };

  // The largest bound, as bits, that at least k weights reach: weights are not negative, so they sort as their bits do.
  auto kth = [&](int k) {
    uint32_t low = 0, high = 0x7f800001u;
    while (high - low > 1) {
      const uint32_t step = max((high - low) / (CUTS + 1), 1u);
      int reached[CUTS] = {};
      for (int i = threadIdx.x; i < own; i += T) {
        uint32_t bits;
        memcpy(&bits, weights + i, sizeof bits);
#pragma unroll
        for (int c = 0; c < CUTS; ++c) reached[c] += bits >= low + (c + 1) * step;
      }
#pragma unroll
      for (int c = 0; c < CUTS; ++c) {
#pragma unroll
        for (int apart = 16; apart; apart /= 2) reached[c] += __shfl_xor_sync(~0u, reached[c], apart);
        if (lane == 0) board.warp_cuts[warp][c] = reached[c];
      }
      __syncthreads();
      if (threadIdx.x < CUTS) {
        int sum = 0;
        for (int w = 0; w < WARPS; ++w) sum += board.warp_cuts[w][threadIdx.x];
        board.cuts[threadIdx.x] = sum;
      }
      __syncthreads();
      meet_cluster();
      const uint32_t start = low, end = high;
      bool exact = false;
      for (int c = 0; c < CUTS; ++c) {
        const uint32_t cut = start + (c + 1) * step;
        int sum = 0;
        for (int peer = 0; peer < C; ++peer) sum += read_peer(board.cuts + c, peer);
        if (cut >= end) continue;
        if (sum >= k) {
          low = cut, exact = sum == k;
        } else {
          high = min(high, cut);
        }
      }
      meet_cluster();  // the board is read
      if (exact) break;
    }
    float bound;
    memcpy(&bound, &low, sizeof bound);
    return bound;
  };

  int k = p.top_k ? p.top_k[row] : 0;
  if (k <= 0 || k > p.n) k = p.n;
  const float top_p = p.top_p ? p.top_p[row] : 1.0f;
  float whole = 1.0f;  // without top-k the weights are taken as the probabilities that they are
  if (p.top_k && top_p < 1.0f && k < p.n) {
    // Top-p applies to the renormalised rest: what the k heaviest weigh, however ties at the k-th are broken.
    const float bound = kth(k);
    pass(bound, 0);
    whole = mass + static_cast<float>(k - count) * bound;
    meet_cluster();
  }
  pass(-0.5f, 0);  // the place behind the whole row
  if (p.top_k && k == p.n) whole = mass;
  const float nucleus = top_p < 1.0f ? top_p * whole : mass * 2.0f;
  const uint64_t random =
      read_peer(board.random, 0) | static_cast<uint64_t>(read_peer(board.random + 1, 0)) << 32;

  int chosen = 0;
  for (int turn = 0; turn < 128 && mass > 0.0f; ++turn) {  // a bound that NaN cannot outlast
    const float uniform = static_cast<float>(mixed(random + turn) >> 40) * 0x1p-24f;
    const float target = uniform * mass;
    // The block, the thread and the weight at which the running sum passes the target; by rounding none may: the last.
    int winner = 0;
    float sum = 0.0f;
    bool passed = false;
#pragma unroll
    for (int peer = 0; peer < C; ++peer) {
      const float more = read_peer(&board.mass, peer);
      sum += more;
      if (!passed && more > 0.0f) winner = peer, passed = sum > target;
    }
    if (rank == winner) {
      if (threadIdx.x == 0) board.first = T, board.last = -1;
      __syncthreads();
      float before_warp = before_block;
      for (int w = 0; w < warp; ++w) before_warp += board.warp_mass[w];
      const float before = before_warp + (up_to_mine - mine);
      if (mine > 0.0f) {
        if (before_warp + up_to_mine > target) atomicMin(&board.first, static_cast<int>(threadIdx.x));
        atomicMax(&board.last, static_cast<int>(threadIdx.x));
      }
      __syncthreads();
      if (threadIdx.x == (board.first < T ? board.first : board.last)) {
        const float weight = turn ? board.weight : -0.5f;
        const int index = turn ? board.index : 0;
        float found_weight = 0.0f, reached = before;
        int found = 0;
        for (int i = threadIdx.x; i < own; i += T) {
          const float w = weights[i];
          if (!(w > 0.0f && (w > weight || (w == weight && begin + i < index)))) continue;
          found_weight = w, found = begin + i;
          reached += w;
          if (reached > target) break;
        }
        board.weight = found_weight, board.index = found;
      }
      __syncthreads();
    }
    meet_cluster();
    const float weight = read_peer(&board.weight, winner);
    const int index = read_peer(&board.index, winner);
    // Every block keeps the place on its own board for the next turn; on the winner's board it is the same already.
    if (threadIdx.x == 0) board.weight = weight, board.index = index;
    chosen = index;
    pass(weight, index);
    if ((count < k && mass < nucleus) || count == 0) break;
  }
  if (rank == 0 && threadIdx.x == 0) p.samples[row] = chosen;
  meet_cluster();  // nobody leaves while its board is read
#endif
}

// cudaErrorNotSupported where a row does not fit: more than about C x 56,000 weights.
template <int C, int T> cudaError_t draw(const Draws& p, int rows, bool chained, int most_shared, cudaStream_t stream) {
  const auto kernel = draw_rows<C, T>;
  const int shared = static_cast<int>(sizeof(Board)) + (p.n + C - 1) / C * 4;
  if (shared > most_shared) return cudaErrorNotSupported;
  const cudaError_t problem = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (problem != cudaSuccess) return problem;
  return launch_clusters(kernel, dim3(rows * C), C, T, shared, chained, stream, p);
}

}  // namespace fib
