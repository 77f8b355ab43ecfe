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
    {0, 4096, 4096, 8, ring<1, 1, 8, 1024, 1>},
    {0, 4096, 4096, 16, ring<1, 2, 8, 512, 1>},
    {0, 4096, 4096, 24, ring<1, 3, 8, 512, 2>},
    {0, 4096, 4096, 32, ring<1, 4, 8, 512, 2>},
    {0, 4096, 4096, 64, ring<1, 8, 4, 256, 8>},
    {0, 4096, 14336, 4, ring<1, 1, 8, 1024, 1>},
    {0, 4096, 14336, 8, ring<1, 1, 8, 1024, 2>},
    {0, 4096, 14336, 16, ring<1, 2, 8, 512, 4>},
    {0, 4096, 14336, 24, stream<2, 3, 8, 2, false, 226>},
    {0, 4096, 14336, 64, stream<2, 4, 8, 2, false, 226>},
    {0, 6144, 4096, 8, ring<1, 1, 8, 1024, 1>},
    {0, 6144, 4096, 16, ring<1, 2, 8, 512, 1>},
    {0, 6144, 4096, 24, ring<1, 3, 8, 512, 2>},
    {0, 6144, 4096, 64, ring<1, 4, 8, 512, 2>},
    {0, 28672, 4096, 8, ring<1, 1, 8, 1024, 1>},
    {0, 28672, 4096, 16, ring<1, 2, 8, 512, 1>},
    {0, 28672, 4096, 24, ring<1, 3, 8, 512, 2>},
    {0, 28672, 4096, 64, stream<2, 4, 8, 2, false, 226>},
    {0, 128256, 4096, 8, ring<1, 1, 8, 1024, 1>},
    {0, 128256, 4096, 16, ring<1, 2, 8, 512, 1>},
    {0, 128256, 4096, 24, stream<2, 3, 8, 2, false, 226>},
    {0, 128256, 4096, 64, stream<2, 4, 8, 2, false, 226>},
};

}  // namespace fib
