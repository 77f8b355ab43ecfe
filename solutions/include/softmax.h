// Attention with a running softmax (Milakov and Gimelshein, arXiv 1805.02867): keys and values are read once, scores
// never leave the processor's cache. What the attention kernels share: rows of queries that pass over keys in chunks.
#pragma once

#include <cmath>

#include "border.h"
#include "tile.h"

namespace fib {

constexpr int64_t CHUNK = 64;  // keys whose scores are held at a time
constexpr int64_t ROWS = 48;   // query rows (tokens x heads of a group) that share a pass, at most, when a group is small
constexpr float LOG2_E = 1.44269504088896f;

struct Softmax {
  FloatRows scores, sums;
  std::vector<float> top, total;

  void start(int64_t rows, int64_t width) {
    scores.resize(rows, CHUNK);
    sums.resize(rows, width);
    std::fill(sums.values.begin(), sums.values.end(), 0.0f);
    top.assign(static_cast<size_t>(rows), -INFINITY);
    total.assign(static_cast<size_t>(rows), 0.0f);
  }

  // Turns a row of scores into weights relative to the row's running maximum and rescales what was summed before.
  void soften(int64_t r, int64_t visible, int64_t count) {
    float* score = scores.row(r);
    float most = top[r];
    for (int64_t j = 0; j < visible; ++j) most = std::max(most, score[j]);
    if (visible == 0 || most == -INFINITY) {
      std::fill(score, score + count, 0.0f);
      return;
    }
    const float shrink = top[r] == -INFINITY ? 0.0f : std::exp(top[r] - most);
    std::fill(score + visible, score + CHUNK, -INFINITY);
    f32x8 sum = {};
    for (int64_t j = 0; j < CHUNK; j += LANES) {
      const f32x8 weight = exp8(load8(score + j) - most);
      store8(score + j, weight);
      sum += weight;
    }
    if (shrink != 1.0f) {
      float* before = sums.row(r);
      for (int64_t d = 0; d < sums.step; d += LANES) store8(before + d, load8(before + d) * shrink);
    }
    total[r] = total[r] * shrink + sum8(sum);
    top[r] = most;
  }

  // sums[r] += weights[r] @ values. Four rows at a time share the widening of a value.
  template <class T> void add(const T* const* values, int64_t rows, int64_t count, int64_t width) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) add_rows<4>(values, r, count, width);
    for (; r < rows; ++r) add_rows<1>(values, r, count, width);
  }

  // The result of a row, and its base 2 log-sum. A row that saw no key is zero with a log-sum of minus infinity.
  template <class T> float finish(int64_t r, int64_t width, T* out) {
    const float inverse = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
    for (int64_t d = 0; d < width; d += LANES) {
      store_part(out + d, load8(sums.row(r) + d) * inverse, std::min(LANES, width - d));
    }
    return total[r] > 0.0f ? (top[r] + std::log(total[r])) * LOG2_E : -INFINITY;
  }

 private:
  template <int R, class T> void add_rows(const T* const* values, int64_t r, int64_t count, int64_t width) {
    for (int64_t d = 0; d < width; d += LANES) {
      const int64_t part = std::min(LANES, width - d);
      f32x8 sum[R];
      for (int i = 0; i < R; ++i) sum[i] = load8(sums.row(r + i) + d);
      for (int64_t j = 0; j < count; ++j) {
        const f32x8 value = part == LANES ? load8(values[j] + d) : load_part(values[j] + d, part);
        for (int i = 0; i < R; ++i) sum[i] += scores.row(r + i)[j] * value;
      }
      for (int i = 0; i < R; ++i) store8(sums.row(r + i) + d, sum[i]);
    }
  }
};

// indptr[0:n] rises from 0 or more to at most `limit`.
inline void check_range(const char* name, const int32_t* indptr, int64_t n, int64_t limit) {
  for (int64_t i = 0; i < n; ++i) {
    if (indptr[i] < 0 || indptr[i] > limit || (i && indptr[i] < indptr[i - 1])) {
      TVM_FFI_THROW(ValueError) << name << "[" << i << "] is " << indptr[i] << ": it must rise from 0 to at most " << limit;
    }
  }
}

inline void check_pages(const int32_t* indices, int64_t used, int64_t pages) {
  for (int64_t i = 0; i < used; ++i) {
    if (indices[i] < 0 || indices[i] >= pages) {
      TVM_FFI_THROW(IndexError) << "kv_indices[" << i << "] is " << indices[i] << ", the cache has " << pages << " pages";
    }
  }
}

}  // namespace fib
