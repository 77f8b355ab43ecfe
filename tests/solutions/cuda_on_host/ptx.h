// What ptx.h of the kernels does with instructions, in plain code that checks what the hardware would not tolerate.
#pragma once

#include "cuda_bf16.h"

#define FIB_HOPPER 1
#define FIB_SHARED(name) unsigned char* name = host::self().block->memory

namespace fib {

inline uint32_t shared_address(const void* place) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(place) - host::self().block->memory);
}

inline uint64_t read_once() { return 0; }

// PTX ISA, m16n8k16: thread (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of A at K 2t, 2t + 1, 2t + 8, 2t + 9,
// column g of B at the same K, and of D rows g and g + 8 at columns 2t and 2t + 1.
inline void multiply(float* d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  std::vector<host::Fragment>& held = host::self().block->fragments[threadIdx.x / 32];
  held[lane] = {{a0, a1, a2, a3}, {b0, b1}};
  __syncwarp();
  const auto half = [](uint32_t pair, int i) {
    return __bfloat162float({static_cast<uint16_t>(i ? pair >> 16 : pair & 0xffff)});
  };
  for (int i = 0; i < 4; ++i) {
    const int row = g + (i & 2 ? 8 : 0), column = 2 * t + (i & 1);
    for (int k = 0; k < 16; ++k) {
      const host::Fragment& a = held[row % 8 * 4 + k % 8 / 2];
      const host::Fragment& b = held[column * 4 + k % 8 / 2];
      d[i] += half(a.a[(row >= 8) + (k >= 8 ? 2 : 0)], k & 1) * half(b.b[k >= 8], k & 1);
    }
  }
  __syncwarp();
}

inline void check_shared(size_t to, size_t bytes) {
  if (to % 16 || to + bytes > host::self().block->bytes) host::fail("a copy to no place in shared memory");
}

inline void fetch(uint32_t to, const void* from, bool inside) {
  check_shared(to, 16);
  if (inside) host::check_read(from, 16);
  if (reinterpret_cast<uintptr_t>(from) % 16) host::fail("a fetch from no place on 16 bytes");
  unsigned char* place = host::self().block->memory + to;
  host::self().groups.back().push_back([=] { inside ? std::memcpy(place, from, 16) : std::memset(place, 0, 16); });
}
inline void fetch_once(uint32_t to, const void* from, bool inside, uint64_t) { fetch(to, from, inside); }
inline void close_group() { host::self().groups.emplace_back(); }
template <int N> void await_groups() {
  auto& groups = host::self().groups;
  while (groups.size() > N + 1) {
    for (auto& copy : groups.front()) copy();
    groups.erase(groups.begin());
  }
}

struct Barrier {
  uint8_t count, phase;
  int16_t missing;
  int32_t bytes;

  void advance() {
    if (missing < 0) host::fail("more arrivals than a barrier expects");
    if (missing == 0 && bytes == 0) {
      ++phase;
      missing = count;
    }
  }
};
static_assert(sizeof(Barrier) == 8);

inline void barrier_init(Barrier* barrier, int count) {
  *barrier = {static_cast<uint8_t>(count), 0, static_cast<int16_t>(count), 0};
}
inline void barriers_ready() {}
inline void arrive(Barrier* barrier) {
  --barrier->missing;
  barrier->advance();
  host::pause();
}
inline void arrive_and_expect(Barrier* barrier, int bytes) {
  barrier->bytes += bytes;
  arrive(barrier);
}
inline void await(Barrier* barrier, int parity) {
  if ((barrier->phase & 1) == parity) host::wait_until([=] { return (barrier->phase & 1) != parity; });
  __syncwarp();
}

inline void copy(void* to, const void* from, int bytes, Barrier* barrier) {
  check_shared(shared_address(to), static_cast<size_t>(bytes));
  if (bytes <= 0 || bytes % 16 || reinterpret_cast<uintptr_t>(from) % 16) host::fail("a copy of no whole 16 bytes");
  host::check_read(from, static_cast<size_t>(bytes));
  host::machine.copies.push_back([=] {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    barrier->bytes -= bytes;
    barrier->advance();
  });
}
inline void copy_once(void* to, const void* from, int bytes, Barrier* barrier, uint64_t) {
  copy(to, from, bytes, barrier);
}

inline void meet(int threads) { host::meet_at(host::self().block->named, threads); }
inline int cluster_rank() { return host::self().block->rank; }
inline void meet_cluster() {
  host::meet_at(host::machine.cluster, static_cast<int>(host::machine.fibers.size()));
}
template <class T> T read_peer(const T* place, int rank) {
  T value;
  std::memcpy(&value, host::machine.blocks[static_cast<size_t>(rank)]->memory + shared_address(place), sizeof value);
  return value;
}

}  // namespace fib
