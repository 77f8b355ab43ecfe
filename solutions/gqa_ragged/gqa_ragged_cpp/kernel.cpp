// Causal grouped-query attention over keys and values that lie one request after the other: see grouped.h.
#include "grouped.h"

using namespace fib;

template <class T> struct Ragged {
  TensorView k, v;
  const int32_t* indptr;

  int64_t count(int64_t request) const { return indptr[request + 1] - indptr[request]; }
  void place(int64_t request, int64_t j, int64_t head, const T** key, const T** value) const {
    const int64_t token = indptr[request] + j;
    *key = data<T>(k) + token * k.stride(0) + head * k.stride(1);
    *value = data<T>(v) + token * v.stride(0) + head * v.stride(1);
  }
};

static void gqa_ragged_prefill_(TensorView q, TensorView k, TensorView v, TensorView qo_indptr, TensorView kv_indptr,
                                double sm_scale, TensorView output, TensorView lse) {
  const int64_t tokens = dims("q", q, 3, 0), width = q.size(2), num_kv = dims("k", k, 3, 0), kv_heads = k.size(1);
  const int64_t requests = dims("qo_indptr", qo_indptr, 1, 0) - 1;
  check_shape("k", k, {num_kv, kv_heads, width});
  check_shape("v", v, {num_kv, kv_heads, width});
  check_shape("qo_indptr", qo_indptr, {requests + 1});
  check_shape("kv_indptr", kv_indptr, {requests + 1});
  check_dtype<int32_t>("qo_indptr", qo_indptr);
  check_dtype<int32_t>("kv_indptr", kv_indptr);
  check_queries(q, output, lse, kv_heads);
  const int32_t *queries = data<int32_t>(qo_indptr), *keys = data<int32_t>(kv_indptr);
  check_range("qo_indptr", queries, requests + 1, tokens);
  check_range("kv_indptr", keys, requests + 1, num_kv);
  by_dtype("q", q, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("k", k);
    check_dtype<T>("v", v);
    check_dtype<T>("output", output);
    const Grouped grouped{q, output, lse, requests, queries, static_cast<float>(sm_scale), kv_heads};
    attend_grouped<T>(grouped, Ragged<T>{k, v, keys}, tokens > 1);
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(gqa_ragged_prefill, gqa_ragged_prefill_);
