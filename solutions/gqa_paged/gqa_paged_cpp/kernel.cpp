// Grouped-query attention over a paged cache, decode and causal prefill, with the running softmax of online attention
// (Milakov and Gimelshein, arXiv 1805.02867): keys and values are read once, scores never leave the cache.
//
// Work is split into (request, group of query rows, key-value head). All query heads of a group and a few query tokens
// share a pass over the keys, so a key is widened to fp32 once for many dot products.
#include <cmath>

#include "border.h"
#include "tile.h"

using namespace fib;

constexpr int64_t CHUNK = 64;  // keys whose scores are held at a time
constexpr int64_t ROWS = 48;   // query rows (tokens x heads of a group) that share a pass, at most, when a group is small
constexpr float LOG2_E = 1.44269504088896f;

struct Work {
  int64_t request, begin, end, head;  // query tokens [begin, end) of one request, one key-value head
};

template <class T> struct Attention {
  TensorView q, k_cache, v_cache, output, lse;
  const int32_t *kv_indptr, *kv_indices;
  float scale;
  int64_t heads, kv_heads, group, width, page_size;

  struct Scratch {
    FloatRows q, scores, sums;
    std::vector<float> top, total;
    std::vector<const T*> keys, values;
  };

  // Query tokens [first, last) are the newest of the request; token t sees keys up to its own place.
  void run(const Work& work, int64_t first, int64_t last) const {
    static thread_local Scratch s;
    const int64_t rows = (work.end - work.begin) * group;
    const int32_t* pages = kv_indices + kv_indptr[work.request];
    const int64_t num_kv = (kv_indptr[work.request + 1] - kv_indptr[work.request]) * page_size;
    s.q.resize(rows, width);
    s.scores.resize(rows, CHUNK);
    s.sums.resize(rows, width);
    std::fill(s.sums.values.begin(), s.sums.values.end(), 0.0f);
    s.top.assign(static_cast<size_t>(rows), -INFINITY);
    s.total.assign(static_cast<size_t>(rows), 0.0f);
    s.keys.resize(CHUNK);
    s.values.resize(CHUNK);
    for (int64_t r = 0; r < rows; ++r) {
      s.q.copy(r, data<T>(q) + token(work, r) * q.stride(0) + head(work, r) * q.stride(1), width);
    }
    const int64_t longest = std::min(num_kv, num_kv - (last - work.end));
    for (int64_t start = 0; start < longest; start += CHUNK) {
      const int64_t count = std::min(CHUNK, longest - start);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t page = pages[(start + j) / page_size], slot = (start + j) % page_size;
        s.keys[j] = data<T>(k_cache) + page * k_cache.stride(0) + slot * k_cache.stride(1) + work.head * k_cache.stride(2);
        s.values[j] = data<T>(v_cache) + page * v_cache.stride(0) + slot * v_cache.stride(1) + work.head * v_cache.stride(2);
      }
      products<T>(s.q.rows.data(), rows, 0, count, width, [&](int64_t j) { return s.keys[j]; },
                  [&](int64_t r, int64_t j, float v) { s.scores.row(r)[j] = v * scale; });
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t visible = num_kv - (last - 1 - token(work, r)) - start;
        soften(s, r, std::max<int64_t>(0, std::min(count, visible)), count);
      }
      gather_values(s, rows, count);
    }
    for (int64_t r = 0; r < rows; ++r) finish(s, r, token(work, r), head(work, r));
  }

 private:
  int64_t token(const Work& work, int64_t r) const { return work.begin + r / group; }
  int64_t head(const Work& work, int64_t r) const { return work.head * group + r % group; }

  // Turns a row of scores into weights relative to the row's running maximum and rescales what was summed before.
  void soften(Scratch& s, int64_t r, int64_t visible, int64_t count) const {
    float* score = s.scores.row(r);
    float top = s.top[r];
    for (int64_t j = 0; j < visible; ++j) top = std::max(top, score[j]);
    if (visible == 0 || top == -INFINITY) {
      std::fill(score, score + count, 0.0f);
      return;
    }
    const float shrink = s.top[r] == -INFINITY ? 0.0f : std::exp(s.top[r] - top);
    std::fill(score + visible, score + CHUNK, -INFINITY);
    f32x8 total = {};
    for (int64_t j = 0; j < CHUNK; j += LANES) {
      const f32x8 weight = exp8(load8(score + j) - top);
      store8(score + j, weight);
      total += weight;
    }
    if (shrink != 1.0f) {
      float* sum = s.sums.row(r);
      for (int64_t d = 0; d < s.sums.step; d += LANES) store8(sum + d, load8(sum + d) * shrink);
    }
    s.total[r] = s.total[r] * shrink + sum8(total);
    s.top[r] = top;
  }

  // sums[r] += weights[r] @ values. Four rows at a time share the widening of a value.
  void gather_values(Scratch& s, int64_t rows, int64_t count) const {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) add_values<4>(s, r, count);
    for (; r < rows; ++r) add_values<1>(s, r, count);
  }

  template <int R> void add_values(Scratch& s, int64_t r, int64_t count) const {
    for (int64_t d = 0; d < width; d += LANES) {
      const int64_t part = std::min(LANES, width - d);
      f32x8 sum[R];
      for (int i = 0; i < R; ++i) sum[i] = load8(s.sums.row(r + i) + d);
      for (int64_t j = 0; j < count; ++j) {
        const f32x8 value = part == LANES ? load8(s.values[j] + d) : load_part(s.values[j] + d, part);
        for (int i = 0; i < R; ++i) sum[i] += s.scores.row(r + i)[j] * value;
      }
      for (int i = 0; i < R; ++i) store8(s.sums.row(r + i) + d, sum[i]);
    }
  }

  // A row that saw no key is zero with a log-sum of minus infinity.
  void finish(Scratch& s, int64_t r, int64_t token, int64_t head) const {
    const float total = s.total[r], inverse = total > 0.0f ? 1.0f / total : 0.0f;
    T* out = data<T>(output) + token * output.stride(0) + head * output.stride(1);
    for (int64_t d = 0; d < width; d += LANES) {
      store_part(out + d, load8(s.sums.row(r) + d) * inverse, std::min(LANES, width - d));
    }
    data<float>(lse)[token * lse.stride(0) + head] = total > 0.0f ? (s.top[r] + std::log(total)) * LOG2_E : -INFINITY;
  }
};

static void check_range(const char* name, const int32_t* indptr, int64_t n, int64_t limit) {
  for (int64_t i = 0; i < n; ++i) {
    if (indptr[i] < 0 || indptr[i] > limit || (i && indptr[i] < indptr[i - 1])) {
      TVM_FFI_THROW(ValueError) << name << "[" << i << "] is " << indptr[i] << ": it must rise from 0 to at most " << limit;
    }
  }
}

static void attend(TensorView q, TensorView k_cache, TensorView v_cache, const int32_t* qo_indptr, TensorView kv_indptr,
                   TensorView kv_indices, double sm_scale, TensorView output, TensorView lse) {
  const int64_t tokens = dims("q", q, 3, 0), heads = q.size(1), width = q.size(2);
  const int64_t pages = dims("k_cache", k_cache, 4, 0), page_size = k_cache.size(1), kv_heads = k_cache.size(2);
  const int64_t requests = dims("kv_indptr", kv_indptr, 1, 0) - 1, used = dims("kv_indices", kv_indices, 1, 0);
  check_shape("q", q, {tokens, heads, width});
  check_shape("k_cache", k_cache, {pages, page_size, kv_heads, width});
  check_shape("v_cache", v_cache, {pages, page_size, kv_heads, width});
  check_shape("kv_indptr", kv_indptr, {requests + 1});
  check_shape("kv_indices", kv_indices, {used});
  check_shape("output", output, {tokens, heads, width});
  check_shape("lse", lse, {tokens, heads});
  check_dtype<int32_t>("kv_indptr", kv_indptr);
  check_dtype<int32_t>("kv_indices", kv_indices);
  check_dtype<float>("lse", lse);
  if (kv_heads == 0 || heads % kv_heads) {
    TVM_FFI_THROW(ValueError) << heads << " query heads cannot share " << kv_heads << " key-value heads";
  }
  const int32_t *indptr = data<int32_t>(kv_indptr), *indices = data<int32_t>(kv_indices);
  check_range("kv_indptr", indptr, requests + 1, used);
  for (int64_t i = 0; i < used; ++i) {
    if (indices[i] < 0 || indices[i] >= pages) {
      TVM_FFI_THROW(IndexError) << "kv_indices[" << i << "] is " << indices[i] << ", the cache has " << pages << " pages";
    }
  }
  if (qo_indptr) {
    check_range("qo_indptr", qo_indptr, requests + 1, tokens);
  } else if (requests != tokens) {
    TVM_FFI_THROW(ValueError) << "kv_indptr describes " << requests << " requests, q has " << tokens << " rows";
  }
  by_dtype("q", q, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("k_cache", k_cache);
    check_dtype<T>("v_cache", v_cache);
    check_dtype<T>("output", output);
    const int64_t group = heads / kv_heads, step = std::max<int64_t>(1, ROWS / group);
    const Attention<T> attention{q, k_cache, v_cache, output, lse, indptr, indices, static_cast<float>(sm_scale),
                                 heads, kv_heads, group, width, page_size};
    const auto first = [&](int64_t request) { return qo_indptr ? int64_t{qo_indptr[request]} : request; };
    std::vector<Work> work;
    for (int64_t request = 0; request < requests; ++request) {
      for (int64_t begin = first(request); begin < first(request + 1); begin += step) {
        for (int64_t head = 0; head < kv_heads; ++head) {
          work.push_back({request, begin, std::min(begin + step, first(request + 1)), head});
        }
      }
    }
    const int64_t items = static_cast<int64_t>(work.size());
#pragma omp parallel for schedule(dynamic) if (items > 1 && (tokens > 1 || used * page_size >= 256))
    for (int64_t i = 0; i < items; ++i) {
      const Work& item = work[static_cast<size_t>(i)];
      attention.run(item, first(item.request), first(item.request + 1));
    }
    // Query rows that no request claims.
    const auto blank = [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t h = 0; h < heads; ++h) {
          std::memset(data<T>(output) + t * output.stride(0) + h * output.stride(1), 0, static_cast<size_t>(width) * sizeof(T));
          data<float>(lse)[t * lse.stride(0) + h] = -INFINITY;
        }
      }
    };
    blank(0, requests > 0 ? first(0) : tokens);
    if (requests > 0) blank(first(requests), tokens);
  });
}

static void gqa_paged_decode_(TensorView q, TensorView k_cache, TensorView v_cache, TensorView kv_indptr,
                              TensorView kv_indices, double sm_scale, TensorView output, TensorView lse) {
  attend(q, k_cache, v_cache, nullptr, kv_indptr, kv_indices, sm_scale, output, lse);
}

static void gqa_paged_prefill_(TensorView q, TensorView k_cache, TensorView v_cache, TensorView qo_indptr,
                               TensorView kv_indptr, TensorView kv_indices, double sm_scale, TensorView output,
                               TensorView lse) {
  check_shape("qo_indptr", qo_indptr, {dims("kv_indptr", kv_indptr, 1, 0)});
  check_dtype<int32_t>("qo_indptr", qo_indptr);
  attend(q, k_cache, v_cache, data<int32_t>(qo_indptr), kv_indptr, kv_indices, sm_scale, output, lse);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(gqa_paged_decode, gqa_paged_decode_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(gqa_paged_prefill, gqa_paged_prefill_);
