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

constexpr int MEASURED_DEVICES = 1;
inline const Measured MEASURED[] = {
    {"NVIDIA H100 80GB HBM3", 9, 0, 3352},
};
inline const Tuned TUNED[] = {
    {0, 4096, 4096, 8, stream<2, 1, 4, 4, false, 226>},
    {0, 4096, 4096, 16, stream<2, 2, 4, 2, true, 98>},
    {0, 4096, 4096, 24, stream<2, 3, 8, 2, false, 226>},
    {0, 4096, 4096, 32, stream<2, 4, 8, 2, false, 226>},
    {0, 4096, 14336, 2, ring<2, 1, 8, 512, 1>},
    {0, 4096, 14336, 4, ring<1, 1, 8, 512, 1>},
    {0, 4096, 14336, 8, stream<2, 1, 4, 4, false, 226>},
    {0, 4096, 14336, 16, stream<2, 2, 4, 4, false, 226>},
    {0, 4096, 14336, 24, stream<2, 3, 8, 2, false, 226>},
    {0, 4096, 14336, 32, stream<2, 4, 8, 2, false, 226>},
    {0, 6144, 4096, 4, ring<1, 1, 8, 512, 1>},
    {0, 6144, 4096, 8, stream<3, 1, 4, 2, false, 226>},
    {0, 6144, 4096, 16, stream<3, 2, 4, 4, false, 226>},
    {0, 6144, 4096, 24, stream<3, 3, 4, 2, false, 226>},
    {0, 6144, 4096, 32, stream<3, 4, 4, 2, false, 226>},
    {0, 28672, 4096, 8, ring<1, 1, 8, 512, 1>},
    {0, 28672, 4096, 16, ring<1, 2, 4, 512, 1>},
    {0, 28672, 4096, 24, stream<2, 3, 8, 2, false, 226>},
    {0, 28672, 4096, 32, stream<7, 4, 4, 1, false, 226>},
    {0, 128256, 4096, 8, ring<1, 1, 8, 512, 1>},
    {0, 128256, 4096, 16, ring<1, 2, 4, 512, 1>},
    {0, 128256, 4096, 24, stream<2, 3, 8, 2, false, 226>},
    {0, 128256, 4096, 32, stream<3, 4, 4, 2, false, 226>},
};

}  // namespace fib
