// Rotary embedding of q and k. A token's cosines and sines are widened to fp32 once and serve all its heads.
#include "border.h"
#include "tile.h"

using namespace fib;

constexpr bool IS_NEOX = true;  // fib: is_neox

// A team of threads costs some microseconds: below this many elements one thread is faster.
constexpr int64_t PARALLEL_FROM = 1 << 16;

// Pair p is (x[p], x[p + half]) in neox style and (x[2 * p], x[2 * p + 1]) in gptj style.
template <class T> static void rotate(const T* x, T* out, const float* cos, const float* sin, int64_t half) {
  int64_t p = 0;
  if (IS_NEOX) {
    for (; p + LANES <= half; p += LANES) {
      const f32x8 a = load8(x + p), b = load8(x + half + p), c = load8(cos + p), s = load8(sin + p);
      store8(out + p, a * c - b * s);
      store8(out + half + p, b * c + a * s);
    }
  }
  for (; p < half; ++p) {
    const int64_t i = IS_NEOX ? p : 2 * p, j = IS_NEOX ? p + half : 2 * p + 1;
    const float a = to_float(x[i]), b = to_float(x[j]);
    put(out + i, a * cos[p] - b * sin[p]);
    put(out + j, b * cos[p] + a * sin[p]);
  }
}

template <class T>
static void rotate_heads(TensorView x, TensorView out, int64_t token, const float* cos, const float* sin, int64_t half) {
  const int64_t heads = x.size(1), rest = x.size(2) - 2 * half;
  const T* from = data<T>(x) + token * x.stride(0);
  T* to = data<T>(out) + token * out.stride(0);
  for (int64_t h = 0; h < heads; ++h, from += x.stride(1), to += out.stride(1)) {
    rotate(from, to, cos, sin, half);
    // memmove: an engine may rotate in place.
    if (rest > 0) std::memmove(to + 2 * half, from + 2 * half, static_cast<size_t>(rest) * sizeof(T));
  }
}

static void rope_(TensorView q, TensorView k, TensorView cos_sin_cache, TensorView positions, TensorView q_out,
                  TensorView k_out) {
  const int64_t tokens = dims("q", q, 3, 0), head_dim = q.size(2), kv_heads = dims("k", k, 3, 1);
  const int64_t length = dims("cos_sin_cache", cos_sin_cache, 2, 0), half = cos_sin_cache.size(1) / 2;
  check_shape("q", q, {tokens, q.size(1), head_dim});
  check_shape("k", k, {tokens, kv_heads, head_dim});
  check_shape("cos_sin_cache", cos_sin_cache, {length, 2 * half});
  check_shape("positions", positions, {tokens});
  check_shape("q_out", q_out, {tokens, q.size(1), head_dim});
  check_shape("k_out", k_out, {tokens, kv_heads, head_dim});
  check_dtype<int64_t>("positions", positions);
  if (2 * half > head_dim) TVM_FFI_THROW(ValueError) << "cos_sin_cache rotates more than head_dim " << head_dim;
  const int64_t* at = data<int64_t>(positions);
  for (int64_t t = 0; t < tokens; ++t) {
    if (at[t] < 0 || at[t] >= length) {
      TVM_FFI_THROW(IndexError) << "positions[" << t << "] is " << at[t] << ", cos_sin_cache has " << length << " rows";
    }
  }
  by_dtype("q", q, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("k", k);
    check_dtype<T>("q_out", q_out);
    check_dtype<T>("k_out", k_out);
    by_dtype("cos_sin_cache", cos_sin_cache, [&](auto cached) {
      using C = decltype(cached);
      const C* cache = data<C>(cos_sin_cache);
#pragma omp parallel for schedule(static) if (tokens > 1 && tokens * (q.size(1) + kv_heads) * head_dim >= PARALLEL_FROM)
      for (int64_t t = 0; t < tokens; ++t) {
        static thread_local FloatRows angles;
        angles.resize(2, half);
        const C* row = cache + at[t] * cos_sin_cache.stride(0);
        angles.copy(0, row, half);
        angles.copy(1, row + half, half);
        rotate_heads<T>(q, q_out, t, angles.row(0), angles.row(1), half);
        rotate_heads<T>(k, k_out, t, angles.row(0), angles.row(1), half);
      }
    });
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(rope, rope_);
