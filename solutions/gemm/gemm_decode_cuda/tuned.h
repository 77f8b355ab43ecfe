// The best measured plans by device and shape. Do not edit: scripts/gpu_tune.py writes it, from
// what it measured and keeps in tests/reports/decode_gemm_tune.json. Run it on a device to add that device.
#pragma once

#include "ring.h"
#include "stream.h"

namespace fib {

struct Measured {
  const char* name;
  int major, minor, gigabytes_per_second;  // of its memory, by clock and width
};
struct Tuned {
  int device;  // in MEASURED
  int n, k, most_m;
  Launch plan;
};

constexpr int MEASURED_DEVICES = 0;
inline const Measured MEASURED[] = {
    {nullptr, 0, 0, 0},
};
inline const Tuned TUNED[] = {
    {-1, 0, 0, 0, nullptr},
};

}  // namespace fib
