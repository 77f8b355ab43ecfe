// RMSNorm, alone and after a residual add, one row at a time in fp32: a row is read once from memory and stays in cache
// for its second pass, where the engine's chain of tensor ops writes and rereads the whole batch at every step.
#include <vector>

#include "border.h"

using namespace fib;

constexpr float EPS = 1e-5f;  // fib: eps

// A team of threads costs some microseconds: below this many elements one thread is faster.
constexpr int64_t PARALLEL_FROM = 1 << 15;

// Writes x * rsqrt(mean(x**2) + eps) * weight for one row of fp32 values.
template <class T>
static void normalise(const float* x, const T* weight, T* out, float sum_of_squares, int64_t n) {
  const float scale = 1.0f / __builtin_sqrtf(sum_of_squares / static_cast<float>(n) + EPS);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store8(out + i, load8(x + i) * scale * load8(weight + i));
  if (i < n) store_part(out + i, load_part(x + i, n - i) * scale * load_part(weight + i, n - i), n - i);
}

// Fills x with the fp32 row that `read(i, count)` yields (count < 8 only at the end) and returns its sum of squares.
template <class Read> static float gather(float* x, int64_t n, Read read) {
  f32x8 even = {}, odd = {};  // two sums, so that one addition need not wait for the last
  int64_t i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    f32x8 a = read(i, LANES), b = read(i + LANES, LANES);
    store8(x + i, a);
    store8(x + i + LANES, b);
    even += a * a;
    odd += b * b;
  }
  for (; i < n; i += LANES) {
    const int64_t count = n - i < LANES ? n - i : LANES;
    f32x8 a = read(i, count);
    store_part(x + i, a, count);
    even += a * a;
  }
  return sum8(even + odd);
}

template <class T> FIB_INLINE f32x8 read8(const T* p, int64_t count) { return count == LANES ? load8(p) : load_part(p, count); }

static float* scratch(int64_t n) {
  static thread_local std::vector<float> row;
  if (static_cast<int64_t>(row.size()) < n) row.resize(static_cast<size_t>(n));
  return row.data();
}

static void rmsnorm_(TensorView hidden_states, TensorView weight, TensorView output) {
  const int64_t rows = dims("hidden_states", hidden_states, 2, 0), n = hidden_states.size(1);
  check_shape("hidden_states", hidden_states, {rows, n});
  check_shape("weight", weight, {n});
  check_shape("output", output, {rows, n});
  by_dtype("hidden_states", hidden_states, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("weight", weight);
    check_dtype<T>("output", output);
    const T *in = data<T>(hidden_states), *w = data<T>(weight);
    T* out = data<T>(output);
    const int64_t in_step = hidden_states.stride(0), out_step = output.stride(0);
#pragma omp parallel for schedule(static) if (rows > 1 && rows * n >= PARALLEL_FROM)
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = in + r * in_step;
      float* x = scratch(n);
      const float squares = gather(x, n, [&](int64_t i, int64_t count) { return read8(row + i, count); });
      normalise(x, w, out + r * out_step, squares, n);
    }
  });
}

static void fused_add_rmsnorm_(TensorView hidden_states, TensorView residual, TensorView weight, TensorView output,
                               TensorView residual_out) {
  const int64_t rows = dims("hidden_states", hidden_states, 2, 0), n = hidden_states.size(1);
  check_shape("hidden_states", hidden_states, {rows, n});
  check_shape("residual", residual, {rows, n});
  check_shape("weight", weight, {n});
  check_shape("output", output, {rows, n});
  check_shape("residual_out", residual_out, {rows, n});
  by_dtype("hidden_states", hidden_states, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("residual", residual);
    check_dtype<T>("weight", weight);
    check_dtype<T>("output", output);
    check_dtype<T>("residual_out", residual_out);
    const T *in = data<T>(hidden_states), *res = data<T>(residual), *w = data<T>(weight);
    T *out = data<T>(output), *sum = data<T>(residual_out);
    const int64_t in_step = hidden_states.stride(0), res_step = residual.stride(0);
    const int64_t out_step = output.stride(0), sum_step = residual_out.stride(0);
    // The fp32 sum is kept aside: the norm needs it unrounded, and an engine may let outputs overlap inputs.
#pragma omp parallel for schedule(static) if (rows > 1 && rows * n >= PARALLEL_FROM)
    for (int64_t r = 0; r < rows; ++r) {
      const T *a = in + r * in_step, *b = res + r * res_step;
      T* s = sum + r * sum_step;
      float* x = scratch(n);
      const float squares = gather(x, n, [&](int64_t i, int64_t count) {
        f32x8 v = read8(a + i, count) + read8(b + i, count);
        count == LANES ? store8(s + i, v) : store_part(s + i, v, count);
        return v;
      });
      normalise(x, w, out + r * out_step, squares, n);
    }
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(rmsnorm, rmsnorm_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fused_add_rmsnorm, fused_add_rmsnorm_);
