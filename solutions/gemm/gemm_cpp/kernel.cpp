// C = A @ B.T for the few rows of a decode step: B streams through once per block of rows, straight from its own layout.
// Large M belongs to a BLAS; this stays correct there, and the benchmark decides where it is used.
#include "border.h"
#include "tile.h"

using namespace fib;

// A team of threads costs some microseconds: below this many multiplications one thread is faster.
constexpr int64_t PARALLEL_FROM = 1 << 17;
// Rows of A at a time, in fp32: as many as stay in the second-level cache.
constexpr int64_t A_BYTES = 192 * 1024;
// Rows of B that a thread takes at a time.
constexpr int64_t STRIPE = 16;

static void gemm_(TensorView A, TensorView B, TensorView C) {
  const int64_t m = dims("A", A, 2, 0), k = A.size(1), n = dims("B", B, 2, 0);
  check_shape("A", A, {m, k});
  check_shape("B", B, {n, k});
  check_shape("C", C, {m, n});
  by_dtype("A", A, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("B", B);
    check_dtype<T>("C", C);
    const T *a = data<T>(A), *b = data<T>(B);
    T* c = data<T>(C);
    const int64_t a_step = A.stride(0), b_step = B.stride(0), c_step = C.stride(0);
    const int64_t block = std::max<int64_t>(3, A_BYTES / std::max<int64_t>(1, 4 * k) / 3 * 3);
    static thread_local FloatRows x;
    x.resize(std::min(block, m), k);
    for (int64_t first = 0; first < m; first += block) {
      const int64_t count = std::min(block, m - first);
      for (int64_t r = 0; r < count; ++r) x.copy(r, a + (first + r) * a_step, k);
      const float* const* rows = x.rows.data();
      T* out = c + first * c_step;
#pragma omp parallel for schedule(static) if (count * n * k >= PARALLEL_FROM)
      for (int64_t j = 0; j < n; j += STRIPE) {
        products<T>(rows, count, j, std::min(j + STRIPE, n), k, [&](int64_t row) { return b + row * b_step; },
                    [&](int64_t r, int64_t col, float v) { put(out + r * c_step + col, v); });
      }
    }
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(gemm, gemm_);
