// As much of CUDA as the kernels under test use, on a CPU: a thread is a fiber, and a block's fibers take turns in an
// order drawn at random. Shared memory begins as NaN. Asynchronous copies arrive late and in any order.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNotSupported };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel> cudaError_t cudaFuncSetAttribute(Kernel, int, int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
enum { cudaDevAttrMemoryClockRate, cudaDevAttrGlobalMemoryBusWidth };
// The device that a test describes.
inline cudaDeviceProp described_device;
inline int described_attributes[2];
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* facts, int) {
  *facts = described_device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = described_attributes[attribute];
  return cudaSuccess;
}

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint4 {
  uint32_t x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

namespace host {

[[noreturn]] inline void fail(const char* what) {
  std::printf("%s\n", what);
  std::fflush(stdout);
  std::_Exit(1);
}

// Where a number of fibers meet; the last one opens it for all.
struct Meeting {
  int here = 0;
  unsigned turn = 0;
};

struct Fragment {
  uint32_t a[4], b[2];
};

struct Block;
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  dim3 thread;
  Block* block = nullptr;
  std::function<bool()> ready;  // empty: at any time
  std::vector<std::vector<std::function<void()>>> groups{1};  // of this thread's own small copies
  bool awaited = false;  // the kernels before this one
  bool done = false;
};

struct Block {
  dim3 index;
  int rank = 0;
  std::vector<unsigned char> storage;
  unsigned char* memory = nullptr;
  size_t bytes = 0;
  Meeting all, named;
  std::vector<Meeting> warps;
  std::vector<std::vector<Fragment>> fragments;
  std::vector<uint32_t> lanes;  // what each thread shows its warp
  unsigned done = 0;  // threads
};

struct Range {
  const char* from;
  size_t bytes;
  bool early;  // may be read while the kernels before still run
};

struct Machine {
  std::vector<std::unique_ptr<Block>> blocks;  // of one cluster
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::function<void()>> copies;  // on their way
  std::vector<Range> readable;
  Meeting cluster;
  ucontext_t scheduler;
  Fiber* now = nullptr;
  dim3 grid, threads;
  std::mt19937 random{1};
  std::function<void()> body;
};
inline Machine machine;

inline Fiber& self() { return *machine.now; }

inline void wait_until(std::function<bool()> ready) {
  self().ready = std::move(ready);
  swapcontext(&self().context, &machine.scheduler);
}

// Lets others run in between.
inline void pause() {
  wait_until([] { return true; });
}

inline void meet_at(Meeting& meeting, int count) {
  const unsigned turn = meeting.turn;
  if (++meeting.here == count) {
    meeting.here = 0;
    ++meeting.turn;
  } else {
    wait_until([&meeting, turn] { return meeting.turn != turn; });
  }
}

inline void check_read(const void* from, size_t bytes) {
  for (const Range& range : machine.readable) {
    const char* begin = static_cast<const char*>(from);
    if (begin < range.from || begin + bytes > range.from + range.bytes) continue;
    if (!range.early && !self().awaited) fail("read before the kernels before were awaited");
    return;
  }
  fail("a read outside of the operands");
}

inline void start() {
  machine.body();
  machine.now->done = true;
  swapcontext(&machine.now->context, &machine.scheduler);
}

// One warp at a time stands still for a while, so that the others get as far ahead of it as they can.
inline void schedule() {
  Machine& m = machine;
  size_t left = m.fibers.size();
  std::vector<Fiber*> runnable, moving;
  Fiber* still = nullptr;
  unsigned passes = 0;
  while (left) {
    runnable.clear();
    if (passes-- == 0) {
      still = m.fibers[m.random() % m.fibers.size()].get();
      passes = m.random() % 256;
    }
    for (auto& fiber : m.fibers) {
      if (!fiber->done && (!fiber->ready || fiber->ready())) runnable.push_back(fiber.get());
    }
    if (!m.copies.empty() && (runnable.empty() || m.random() % 4 == 0)) {
      const size_t i = m.random() % m.copies.size();
      m.copies[i]();
      m.copies.erase(m.copies.begin() + static_cast<long>(i));
      continue;
    }
    if (runnable.empty()) fail("deadlock");
    moving.clear();
    for (Fiber* fiber : runnable) {
      if (fiber->block != still->block || fiber->thread.x / 32 != still->thread.x / 32) moving.push_back(fiber);
    }
    if (!moving.empty()) runnable.swap(moving);
    std::shuffle(runnable.begin(), runnable.end(), m.random);
    for (Fiber* fiber : runnable) {
      fiber->ready = nullptr;
      m.now = fiber;
      swapcontext(&m.scheduler, &fiber->context);
      if (!fiber->done) continue;
      --left;
      if (++fiber->block->done == m.threads.x) std::memset(fiber->block->memory, 0xff, fiber->block->bytes);
    }
  }
  if (!m.copies.empty()) fail("a block ended before what it asked for had come");
}

// Runs a grid, cluster by cluster.
inline void run(dim3 grid, unsigned cluster, unsigned threads, size_t shared, std::function<void()> body) {
  Machine& m = machine;
  m.grid = grid;
  m.threads = dim3(threads);
  m.body = std::move(body);
  if (grid.x % cluster) fail("the grid is no whole number of clusters");
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; x += cluster) {
      m.blocks.clear();
      m.fibers.clear();
      m.cluster = Meeting();
      for (unsigned rank = 0; rank < cluster; ++rank) {
        auto block = std::make_unique<Block>();
        block->index = dim3(x + rank, y);
        block->rank = static_cast<int>(rank);
        block->bytes = shared;
        block->storage.assign(shared + 128, 0xff);
        block->memory = block->storage.data() + (128 - reinterpret_cast<uintptr_t>(block->storage.data()) % 128) % 128;
        block->warps.resize(threads / 32);
        block->lanes.resize(threads);
        block->fragments.assign(threads / 32, std::vector<Fragment>(32));
        for (unsigned t = 0; t < threads; ++t) {
          constexpr size_t STACK = 64 * 1024;
          auto fiber = std::make_unique<Fiber>();
          fiber->thread = dim3(t, 0, 0);
          fiber->block = block.get();
          fiber->stack.reset(new char[STACK]);
          getcontext(&fiber->context);
          fiber->context.uc_stack.ss_sp = fiber->stack.get();
          fiber->context.uc_stack.ss_size = STACK;
          makecontext(&fiber->context, start, 0);
          m.fibers.push_back(std::move(fiber));
        }
        m.blocks.push_back(std::move(block));
      }
      schedule();
    }
  }
}

}  // namespace host

#define threadIdx (host::self().thread)
#define blockIdx (host::self().block->index)
#define gridDim (host::machine.grid)

inline void __syncthreads() { host::meet_at(host::self().block->all, static_cast<int>(host::machine.threads.x)); }
inline void __syncwarp() { host::meet_at(host::self().block->warps[threadIdx.x / 32], 32); }

// What lane `from` of the warp holds; every lane of the warp asks at once.
template <class T> T of_lane(T value, int from) {
  static_assert(sizeof(T) == 4);
  uint32_t* lanes = host::self().block->lanes.data() + threadIdx.x / 32 * 32;
  std::memcpy(lanes + threadIdx.x % 32, &value, sizeof value);
  __syncwarp();
  std::memcpy(&value, lanes + from, sizeof value);
  __syncwarp();
  return value;
}
template <class T> T __shfl_up_sync(unsigned, T value, int apart) {
  const int lane = threadIdx.x % 32;
  return of_lane(value, lane < apart ? lane : lane - apart);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int apart) {
  return of_lane(value, static_cast<int>(threadIdx.x % 32) ^ apart);
}

// Fibers change places only where they meet or wait.
template <class T> T atomicAdd(T* place, T value) {
  const T before = *place;
  *place += value;
  return before;
}
inline void atomicMin(int* place, int value) { *place = min(*place, value); }
inline void atomicMax(int* place, int value) { *place = max(*place, value); }
