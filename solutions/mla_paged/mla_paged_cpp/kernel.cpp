// Decode of multi-head latent attention over a paged cache. Work is split into (request, some heads): the heads are rows
// of one pass over the latent keys, each widened to fp32 once for all of them, and read again as a value from the cache.
#include "softmax.h"

using namespace fib;

template <class T> struct Latent {
  TensorView q_nope, q_pe, ckv_cache, kpe_cache, output, lse;
  const int32_t *indptr, *indices;
  float scale;
  int64_t ckv, kpe, page_size;

  struct Scratch {
    FloatRows nope, pe;
    Softmax softmax;
    std::vector<const T*> latent, rotary;
  };

  void run(int64_t request, int64_t begin, int64_t end) const {
    static thread_local Scratch s;
    const int64_t rows = end - begin, num_kv = (indptr[request + 1] - indptr[request]) * page_size;
    const int32_t* pages = indices + indptr[request];
    s.nope.resize(rows, ckv);
    s.pe.resize(rows, kpe);
    s.softmax.start(rows, ckv);
    s.latent.resize(CHUNK);
    s.rotary.resize(CHUNK);
    for (int64_t r = 0; r < rows; ++r) {
      s.nope.copy(r, data<T>(q_nope) + request * q_nope.stride(0) + (begin + r) * q_nope.stride(1), ckv);
      s.pe.copy(r, data<T>(q_pe) + request * q_pe.stride(0) + (begin + r) * q_pe.stride(1), kpe);
    }
    for (int64_t start = 0; start < num_kv; start += CHUNK) {
      const int64_t count = std::min(CHUNK, num_kv - start);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t page = pages[(start + j) / page_size], slot = (start + j) % page_size;
        s.latent[j] = data<T>(ckv_cache) + page * ckv_cache.stride(0) + slot * ckv_cache.stride(1);
        s.rotary[j] = data<T>(kpe_cache) + page * kpe_cache.stride(0) + slot * kpe_cache.stride(1);
      }
      FloatRows& scores = s.softmax.scores;
      products<T>(s.nope.rows.data(), rows, 0, count, ckv, [&](int64_t j) { return s.latent[j]; },
                  [&](int64_t r, int64_t j, float v) { scores.row(r)[j] = v; });
      products<T>(s.pe.rows.data(), rows, 0, count, kpe, [&](int64_t j) { return s.rotary[j]; },
                  [&](int64_t r, int64_t j, float v) { scores.row(r)[j] = (scores.row(r)[j] + v) * scale; });
      for (int64_t r = 0; r < rows; ++r) s.softmax.soften(r, count, count);
      s.softmax.add(s.latent.data(), rows, count, ckv);
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* out = data<T>(output) + request * output.stride(0) + (begin + r) * output.stride(1);
      data<float>(lse)[request * lse.stride(0) + begin + r] = s.softmax.finish(r, ckv, out);
    }
  }
};

static void mla_paged_decode_(TensorView q_nope, TensorView q_pe, TensorView ckv_cache, TensorView kpe_cache,
                              TensorView kv_indptr, TensorView kv_indices, double sm_scale, TensorView output,
                              TensorView lse) {
  const int64_t batch = dims("q_nope", q_nope, 3, 0), heads = q_nope.size(1), ckv = q_nope.size(2);
  const int64_t kpe = dims("q_pe", q_pe, 3, 2), pages = dims("ckv_cache", ckv_cache, 3, 0), page_size = ckv_cache.size(1);
  const int64_t used = dims("kv_indices", kv_indices, 1, 0);
  check_shape("q_nope", q_nope, {batch, heads, ckv});
  check_shape("q_pe", q_pe, {batch, heads, kpe});
  check_shape("ckv_cache", ckv_cache, {pages, page_size, ckv});
  check_shape("kpe_cache", kpe_cache, {pages, page_size, kpe});
  check_shape("kv_indptr", kv_indptr, {batch + 1});
  check_shape("kv_indices", kv_indices, {used});
  check_shape("output", output, {batch, heads, ckv});
  check_shape("lse", lse, {batch, heads});
  check_dtype<int32_t>("kv_indptr", kv_indptr);
  check_dtype<int32_t>("kv_indices", kv_indices);
  check_dtype<float>("lse", lse);
  const int32_t *indptr = data<int32_t>(kv_indptr), *indices = data<int32_t>(kv_indices);
  check_range("kv_indptr", indptr, batch + 1, used);
  check_pages(indices, used, pages);
  by_dtype("q_nope", q_nope, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("q_pe", q_pe);
    check_dtype<T>("ckv_cache", ckv_cache);
    check_dtype<T>("kpe_cache", kpe_cache);
    check_dtype<T>("output", output);
    const Latent<T> latent{q_nope, q_pe, ckv_cache, kpe_cache, output, lse, indptr, indices,
                           static_cast<float>(sm_scale), ckv, kpe, page_size};
    const int64_t step = std::min(heads, ROWS), parts = heads ? (heads + step - 1) / step : 0, items = batch * parts;
#pragma omp parallel for schedule(dynamic) if (items > 1)
    for (int64_t i = 0; i < items; ++i) {
      const int64_t begin = i % parts * step;
      latent.run(i / parts, begin, std::min(begin + step, heads));
    }
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(mla_paged_decode, mla_paged_decode_);
