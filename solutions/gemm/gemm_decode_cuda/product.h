// What is multiplied, where, and what every plan for it looks like.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fib {

// C [m, n] = A [m, k] @ B [n, k].T; steps are elements from row to row.
struct Product {
  const __nv_bfloat16 *a, *b;
  __nv_bfloat16* c;
  int m, n, k;
  int64_t a_step, b_step, c_step;
};

struct Hardware {
  int device, major, processors, shared;  // shared: bytes of shared memory that a block may have
};

// chained: may start while the kernel before it runs. A plan that cannot take the product launches nothing and says so.
using Launch = cudaError_t (*)(const Product&, bool chained, const Hardware&, cudaStream_t);

}  // namespace fib
