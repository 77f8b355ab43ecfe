// Grouped-query attention over a paged cache, decode and causal prefill: see grouped.h.
#include "grouped.h"

using namespace fib;

template <class T> struct Pages {
  TensorView k_cache, v_cache;
  const int32_t *indptr, *indices;
  int64_t page_size;

  int64_t count(int64_t request) const { return (indptr[request + 1] - indptr[request]) * page_size; }
  void place(int64_t request, int64_t j, int64_t head, const T** key, const T** value) const {
    const int64_t page = indices[indptr[request] + j / page_size], slot = j % page_size;
    *key = data<T>(k_cache) + page * k_cache.stride(0) + slot * k_cache.stride(1) + head * k_cache.stride(2);
    *value = data<T>(v_cache) + page * v_cache.stride(0) + slot * v_cache.stride(1) + head * v_cache.stride(2);
  }
};

static void attend(TensorView q, TensorView k_cache, TensorView v_cache, const int32_t* qo_indptr, TensorView kv_indptr,
                   TensorView kv_indices, double sm_scale, TensorView output, TensorView lse) {
  const int64_t tokens = dims("q", q, 3, 0), width = q.size(2);
  const int64_t pages = dims("k_cache", k_cache, 4, 0), page_size = k_cache.size(1), kv_heads = k_cache.size(2);
  const int64_t requests = dims("kv_indptr", kv_indptr, 1, 0) - 1, used = dims("kv_indices", kv_indices, 1, 0);
  check_shape("k_cache", k_cache, {pages, page_size, kv_heads, width});
  check_shape("v_cache", v_cache, {pages, page_size, kv_heads, width});
  check_shape("kv_indptr", kv_indptr, {requests + 1});
  check_shape("kv_indices", kv_indices, {used});
  check_dtype<int32_t>("kv_indptr", kv_indptr);
  check_dtype<int32_t>("kv_indices", kv_indices);
  check_queries(q, output, lse, kv_heads);
  const int32_t *indptr = data<int32_t>(kv_indptr), *indices = data<int32_t>(kv_indices);
  check_range("kv_indptr", indptr, requests + 1, used);
  check_pages(indices, used, pages);
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
    const Grouped grouped{q, output, lse, requests, qo_indptr, static_cast<float>(sm_scale), kv_heads};
    const Pages<T> keys{k_cache, v_cache, indptr, indices, page_size};
    attend_grouped<T>(grouped, keys, tokens > 1 || used * page_size >= 256);
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
