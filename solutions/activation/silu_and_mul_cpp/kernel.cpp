// silu(x[:, :d]) * x[:, d:] in one pass: both halves are read once and nothing in between goes back to memory.
#include "border.h"

using namespace fib;

// A team of threads costs some microseconds: below this many outputs one thread is faster.
constexpr int64_t PARALLEL_FROM = 1 << 14;

FIB_INLINE f32x8 gated(f32x8 gate, f32x8 up) { return gate / (1.0f + exp8(-gate)) * up; }

template <class T> static void row_of(const T* gate, const T* up, T* out, int64_t d) {
  int64_t i = 0;
  // Two vectors a turn: the chain of dependent steps in one exponential hides behind the other.
  for (; i + 2 * LANES <= d; i += 2 * LANES) {
    const f32x8 low = gated(load8(gate + i), load8(up + i));
    const f32x8 high = gated(load8(gate + i + LANES), load8(up + i + LANES));
    store8(out + i, low);
    store8(out + i + LANES, high);
  }
  for (; i + LANES <= d; i += LANES) store8(out + i, gated(load8(gate + i), load8(up + i)));
  if (i < d) store_part(out + i, gated(load_part(gate + i, d - i), load_part(up + i, d - i)), d - i);
}

static void silu_and_mul_(TensorView x, TensorView output) {
  const int64_t rows = dims("x", x, 2, 0), d = x.size(1) / 2;
  check_shape("x", x, {rows, 2 * d});
  check_shape("output", output, {rows, d});
  by_dtype("x", x, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("output", output);
    const T* in = data<T>(x);
    T* out = data<T>(output);
    const int64_t in_step = x.stride(0), out_step = output.stride(0);
#pragma omp parallel for schedule(static) if (rows > 1 && rows * d >= PARALLEL_FROM)
    for (int64_t r = 0; r < rows; ++r) row_of(in + r * in_step, in + r * in_step + d, out + r * out_step, d);
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(silu_and_mul, silu_and_mul_);
