// Causal grouped-query attention over keys that lie anywhere: in pages, or one request after the other.
//
// Work is split into (request, group of query rows, key-value head). All query heads of a group and a few query tokens
// share a pass over the keys, so a key is widened to fp32 once for many dot products.
#pragma once

#include "softmax.h"

namespace fib {

struct Grouped {
  TensorView q, output, lse;
  int64_t requests;
  const int32_t* qo_indptr;  // null: one query token a request
  float scale;
  int64_t kv_heads;

  int64_t first(int64_t request) const { return qo_indptr ? int64_t{qo_indptr[request]} : request; }
};

struct Work {
  int64_t request, begin, end, head;  // query tokens [begin, end) of one request, one key-value head
};

// keys.count(request): how many keys a request has. keys.place(request, j, head, &k, &v): where its j-th are.
template <class T, class Keys> struct Attention {
  const Grouped& g;
  const Keys& keys;
  int64_t group, width;

  struct Scratch {
    FloatRows q;
    Softmax softmax;
    std::vector<const T*> keys, values;
  };

  // Query tokens [first, last) are the newest of the request; token t sees keys up to its own place.
  void run(const Work& work) const {
    static thread_local Scratch s;
    const int64_t rows = (work.end - work.begin) * group, last = g.first(work.request + 1);
    const int64_t num_kv = keys.count(work.request);
    s.q.resize(rows, width);
    s.softmax.start(rows, width);
    s.keys.resize(CHUNK);
    s.values.resize(CHUNK);
    for (int64_t r = 0; r < rows; ++r) {
      s.q.copy(r, data<T>(g.q) + token(work, r) * g.q.stride(0) + head(work, r) * g.q.stride(1), width);
    }
    const int64_t longest = std::min(num_kv, num_kv - (last - work.end));
    for (int64_t start = 0; start < longest; start += CHUNK) {
      const int64_t count = std::min(CHUNK, longest - start);
      for (int64_t j = 0; j < count; ++j) keys.place(work.request, start + j, work.head, &s.keys[j], &s.values[j]);
      products<T>(s.q.rows.data(), rows, 0, count, width, [&](int64_t j) { return s.keys[j]; },
                  [&](int64_t r, int64_t j, float v) { s.softmax.scores.row(r)[j] = v * g.scale; });
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t visible = num_kv - (last - 1 - token(work, r)) - start;
        s.softmax.soften(r, std::max<int64_t>(0, std::min(count, visible)), count);
      }
      s.softmax.add(s.values.data(), rows, count, width);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t t = token(work, r), h = head(work, r);
      T* out = data<T>(g.output) + t * g.output.stride(0) + h * g.output.stride(1);
      data<float>(g.lse)[t * g.lse.stride(0) + h] = s.softmax.finish(r, width, out);
    }
  }

 private:
  int64_t token(const Work& work, int64_t r) const { return work.begin + r / group; }
  int64_t head(const Work& work, int64_t r) const { return work.head * group + r % group; }
};

// `shared`: whether the work is enough for several threads.
template <class T, class Keys> void attend_grouped(const Grouped& g, const Keys& keys, bool shared) {
  const int64_t tokens = g.q.size(0), heads = g.q.size(1), width = g.q.size(2);
  const int64_t group = heads / g.kv_heads, step = std::max<int64_t>(1, ROWS / group);
  const Attention<T, Keys> attention{g, keys, group, width};
  std::vector<Work> work;
  for (int64_t request = 0; request < g.requests; ++request) {
    for (int64_t begin = g.first(request); begin < g.first(request + 1); begin += step) {
      for (int64_t head = 0; head < g.kv_heads; ++head) {
        work.push_back({request, begin, std::min(begin + step, g.first(request + 1)), head});
      }
    }
  }
  const int64_t items = static_cast<int64_t>(work.size());
#pragma omp parallel for schedule(dynamic) if (items > 1 && shared)
  for (int64_t i = 0; i < items; ++i) attention.run(work[static_cast<size_t>(i)]);
  // Query rows that no request claims.
  const auto blank = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        T* out = data<T>(g.output) + t * g.output.stride(0) + h * g.output.stride(1);
        std::memset(out, 0, static_cast<size_t>(width) * sizeof(T));
        data<float>(g.lse)[t * g.lse.stride(0) + h] = -INFINITY;
      }
    }
  };
  blank(0, g.requests > 0 ? g.first(0) : tokens);
  if (g.requests > 0) blank(g.first(g.requests), tokens);
}

// Query side and results, which both kinds of cache share.
inline void check_queries(TensorView q, TensorView output, TensorView lse, int64_t kv_heads) {
  const int64_t tokens = dims("q", q, 3, 0), heads = q.size(1), width = q.size(2);
  check_shape("q", q, {tokens, heads, width});
  check_shape("output", output, {tokens, heads, width});
  check_shape("lse", lse, {tokens, heads});
  check_dtype<float>("lse", lse);
  if (kv_heads == 0 || heads % kv_heads) {
    TVM_FFI_THROW(ValueError) << heads << " query heads cannot share " << kv_heads << " key-value heads";
  }
}

}  // namespace fib
