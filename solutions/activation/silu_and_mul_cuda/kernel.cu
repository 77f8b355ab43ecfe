// silu(x[:, :d]) * x[:, d:] for the few rows of a decode step.
//
// In a graph on Hopper it starts under the tail of a kernel of ours before it, and lets the next one start at once: a
// matrix product that knows how to (gemm_decode_cuda) then reads its weight meanwhile.
#include "cuda_border.h"
#include "gate.h"

using namespace fib;

static void silu_and_mul_(TensorView x, TensorView out) {
  const int device = x.device().device_id;
  if (out.ndim() != 2) TVM_FFI_THROW(ValueError) << "output has " << out.ndim() << " dimensions, expected 2";
  const int64_t rows = out.size(0), d = out.size(1);
  check("x", x, {rows, 2 * d}, device);
  check("output", out, {rows, d}, device);
  if (rows == 0 || d == 0) return;
  const Gate problem{data(x), data(out), static_cast<int>(d), row_step(x), row_step(out)};
  const bool whole = aligned(x) && aligned(out);
  expect(gate(problem, static_cast<int>(rows), whole, device_facts(device).major >= 9 && after_ours(stream_of(x)),
              stream_of(x)));
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(silu_and_mul, silu_and_mul_);
