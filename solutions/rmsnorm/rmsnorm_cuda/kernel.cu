// RMSNorm, alone and after a residual add, for the few rows of a decode step.
//
// In a graph on Hopper it starts under the tail of a kernel of ours before it, and lets the next one start at once: a
// matrix product that knows how to (gemm_decode_cuda) then reads its weight while the norm runs on a few processors.
#include "cuda_border.h"
#include "rows.h"

using namespace fib;

constexpr float EPS = 1e-5f;  // fib: eps

template <bool ADD>
static void run(TensorView x, TensorView residual, TensorView weight, TensorView out, TensorView total) {
  const int device = x.device().device_id;
  if (x.ndim() != 2) TVM_FFI_THROW(ValueError) << "hidden_states has " << x.ndim() << " dimensions, expected 2";
  const int64_t rows = x.size(0), n = x.size(1);
  check("hidden_states", x, {rows, n}, device);
  check("residual", residual, {rows, n}, device);
  check("weight", weight, {n}, device);
  check("output", out, {rows, n}, device);
  check("residual_out", total, {rows, n}, device);
  if (rows == 0 || n == 0) return;
  const bool whole = aligned(x) && aligned(residual) && aligned(weight) && aligned(out) && aligned(total);
  const Norm problem{data(x), data(residual), data(weight), data(out), data(total), static_cast<int>(n),
                     row_step(x), row_step(residual), row_step(out), row_step(total),
                     EPS, 1.0f / static_cast<float>(n)};
  expect(norm<ADD>(problem, static_cast<int>(rows), whole, device_facts(device).major >= 9 && after_ours(stream_of(x)),
                   stream_of(x)));
}

static void rmsnorm_(TensorView x, TensorView weight, TensorView out) { run<false>(x, x, weight, out, out); }

static void fused_add_rmsnorm_(TensorView x, TensorView residual, TensorView weight, TensorView out, TensorView total) {
  run<true>(x, residual, weight, out, total);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(rmsnorm, rmsnorm_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fused_add_rmsnorm, fused_add_rmsnorm_);
