// C = A @ B.T for the few rows of a decode step, at the speed of reading B once.
//
// In a graph on Hopper, after another kernel of ours, it starts while that one still runs and reads B at once: only A
// waits. So B must be what it is in a model, a weight: never the output of a kernel of ours that still runs.
#include "any.h"
#include "choose.h"
#include "cuda_border.h"

using namespace fib;

static void gemm_(TensorView A, TensorView B, TensorView C) {
  const int device = A.device().device_id;
  if (A.ndim() != 2) TVM_FFI_THROW(ValueError) << "A has " << A.ndim() << " dimensions, expected 2";
  if (B.ndim() != 2) TVM_FFI_THROW(ValueError) << "B has " << B.ndim() << " dimensions, expected 2";
  const int64_t m = A.size(0), k = A.size(1), n = B.size(0);
  check("A", A, {m, k}, device);
  check("B", B, {n, k}, device);
  check("C", C, {m, n}, device);
  if (m == 0 || n == 0) return;
  const Device& facts = device_facts(device);
  const bool chained = facts.major >= 9 && after_ours(stream_of(A));
  const Product product{data(A), data(B), data(C), static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
                        row_step(A), row_step(B), row_step(C)};
  if (k > 0 && k % 8 == 0 && aligned(A) && aligned(B)) {
    const Hardware on{device, facts.major, facts.processors, facts.shared};
    for (const Launch plan : {by_table(product, measured_like(device)), by_rule(product, facts.processors)}) {
      if (plan && plan(product, chained, on, stream_of(A)) == cudaSuccess) return;
      cudaGetLastError();  // too little shared memory here
    }
  }
  expect(any(product, chained, stream_of(A)));
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(gemm, gemm_);
