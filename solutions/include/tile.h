// Dot products of fp32 rows with stored rows: the inner part of every matrix product here. Both sides run along memory,
// as linear layers and caches keep them, so nothing is repacked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vec.h"

namespace fib {

// M rows of a times N rows of b, K long. 3 x 4 sums, 3 rows of a and one of b fill the 16 registers of AVX2.
template <int M, int N, class T, class Store>
FIB_INLINE void tile(const float* const* a, const T* const* b, int64_t k, Store store) {
  f32x8 sum[M][N] = {};
  int64_t i = 0;
  for (; i + LANES <= k; i += LANES) {
    f32x8 x[M];
    for (int m = 0; m < M; ++m) x[m] = load8(a[m] + i);
    for (int n = 0; n < N; ++n) {
      const f32x8 y = load8(b[n] + i);
      for (int m = 0; m < M; ++m) sum[m][n] += x[m] * y;
    }
  }
  if (i < k) {
    for (int n = 0; n < N; ++n) {
      const f32x8 y = load_part(b[n] + i, k - i);
      for (int m = 0; m < M; ++m) sum[m][n] += load_part(a[m] + i, k - i) * y;
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) store(m, n, sum8(sum[m][n]));
}

template <int N, class T, class Store>
FIB_INLINE void column(const float* const* a, int64_t m, const T* const* b, int64_t k, Store store) {
  int64_t r = 0;
  for (; r + 3 <= m; r += 3) tile<3, N>(a + r, b, k, [&](int i, int j, float v) { store(r + i, j, v); });
  if (m - r == 2) tile<2, N>(a + r, b, k, [&](int i, int j, float v) { store(r + i, j, v); });
  if (m - r == 1) tile<1, N>(a + r, b, k, [&](int i, int j, float v) { store(r + i, j, v); });
}

// store(row, j, value) for every row of a[0:m] and every j in [begin, end); b(j) is the stored row j.
template <class T, class Row, class Store>
void products(const float* const* a, int64_t m, int64_t begin, int64_t end, int64_t k, Row b, Store store) {
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) {
    const T* rows[4] = {b(j), b(j + 1), b(j + 2), b(j + 3)};
    column<4>(a, m, rows, k, [&](int64_t r, int n, float v) { store(r, j + n, v); });
  }
  for (; j < end; ++j) {
    const T* row = b(j);
    column<1>(a, m, &row, k, [&](int64_t r, int, float v) { store(r, j, v); });
  }
}

// fp32 copies of rows, padded to whole vectors, and the pointers that `tile` takes.
struct FloatRows {
  std::vector<float> values;
  std::vector<const float*> rows;
  int64_t step = 0;

  void resize(int64_t count, int64_t width) {
    step = (width + LANES - 1) / LANES * LANES;
    if (static_cast<int64_t>(values.size()) < count * step) values.resize(static_cast<size_t>(count * step));
    rows.resize(static_cast<size_t>(count));
    for (int64_t r = 0; r < count; ++r) rows[static_cast<size_t>(r)] = values.data() + r * step;
  }
  float* row(int64_t r) { return values.data() + r * step; }

  template <class T> void copy(int64_t r, const T* from, int64_t width) {
    float* to = row(r);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) store8(to + i, load8(from + i));
    if (i < width) store_part(to + i, load_part(from + i, width - i), width - i);
  }
};

FIB_INLINE void put(float* p, float v) { *p = v; }
FIB_INLINE void put(bf16* p, float v) { store_part(p, splat(v), 1); }

}  // namespace fib
