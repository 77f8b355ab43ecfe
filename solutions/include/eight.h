// Eight bfloat16 values in 16 bytes: the widest load and store of a thread.
#pragma once

#include <cuda_bf16.h>

namespace fib {

struct alignas(16) Eight {
  __nv_bfloat162 pair[4];
};

}  // namespace fib
