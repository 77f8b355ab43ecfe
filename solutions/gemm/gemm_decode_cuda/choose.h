// Which plan a product takes: the one that was measured to be best for its shape on this device or one like it, else one
// by rule.
#pragma once

#include <cstring>

#include "ring.h"
#include "stream.h"
#include "tuned.h"

namespace fib {

// By rows of A and by how much of the weight a block has to itself: a single tile where that can be, else several, for
// which A is kept. Past 32 rows B is read again for every 32: right, but slow. Swept on an H100 at the shapes of
// Llama-3.1-8B; tests/reports/decode_gemm_gpu.json has the times.
inline Launch by_rule(const Product& p, int processors) {
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

// The measured device that a device is, by its name, or is most like: the same compute capability, and a memory that is
// as fast within a sixth. Their number where there is none.
inline int like(const char* name, int major, int minor, int gigabytes_per_second) {
  int found = MEASURED_DEVICES;
  float least = 1.0f / 6.0f;
  for (int i = 0; i < MEASURED_DEVICES; ++i) {
    const Measured& known = MEASURED[i];
    if (std::strcmp(known.name, name) == 0) return i;
    if (known.major != major || known.minor != minor || known.gigabytes_per_second <= 0) continue;
    const float apart = static_cast<float>(gigabytes_per_second) / static_cast<float>(known.gigabytes_per_second) - 1.0f;
    if (apart < least && -apart < least) {
      found = i;
      least = apart < 0 ? -apart : apart;
    }
  }
  return found;
}

// The plan for a shape that was measured: of those for enough rows of A the one for the fewest. Else null.
inline Launch by_table(const Product& p, int measured) {
  for (const Tuned& row : TUNED) {  // in order of most_m
    if (row.device == measured && row.n == p.n && row.k == p.k && p.m <= row.most_m) return row.plan;
  }
  return nullptr;
}

// Asked once a thread and device.
inline int measured_like(int device) {
  thread_local int known[64] = {};  // one more than the answer
  int& answer = known[device & 63];
  if (answer == 0) {
    cudaDeviceProp facts;
    int kilohertz = 0, bits = 0;
    answer = 1 + MEASURED_DEVICES;
    if (cudaGetDeviceProperties(&facts, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device) == cudaSuccess) {
      const int64_t rate = int64_t{kilohertz} * 2 * bits / 8 / 1000000;  // two transfers a clock
      answer = 1 + like(facts.name, facts.major, facts.minor, static_cast<int>(rate));
    } else {
      cudaGetLastError();
    }
  }
  return answer - 1;
}

}  // namespace fib
