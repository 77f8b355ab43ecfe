// Mixture of SwiGLU experts. Tokens are grouped by expert, so that an expert's weights, which are nearly all the traffic
// at decode, are read once for all its tokens; what lies between the two products stays in fp32.
#include "border.h"
#include "tile.h"

using namespace fib;

// A team of threads costs some microseconds: below this many multiplications one thread is faster.
constexpr int64_t PARALLEL_FROM = 1 << 17;
// Rows of an expert's weights that a thread takes at a time.
constexpr int64_t STRIPE = 16;
// Tokens of one expert at a time: bounds the scratch and keeps it in cache.
constexpr int64_t BLOCK = 48;

struct Slot {
  int64_t token;
  float weight;
};

template <class T>
static void run_expert(const std::vector<Slot>& slots, const T* hidden, int64_t hidden_step, const T* w13,
                       int64_t w13_step, const T* w2, int64_t w2_step, FloatRows& output, int64_t h, int64_t i) {
  static thread_local FloatRows x, gate_up;
  const int64_t total = static_cast<int64_t>(slots.size());
  for (int64_t first = 0; first < total; first += BLOCK) {
    const int64_t count = std::min(BLOCK, total - first);
    const Slot* slot = slots.data() + first;
    x.resize(count, h);
    for (int64_t r = 0; r < count; ++r) x.copy(r, hidden + slot[r].token * hidden_step, h);
    gate_up.resize(count, 2 * i);
    // Threads of the team see the caller's scratch through these, not their own empty thread_local.
    FloatRows& mid = gate_up;
    const float* const* rows = x.rows.data();
#pragma omp parallel for schedule(static) if (count * 2 * i * h >= PARALLEL_FROM)
    for (int64_t j = 0; j < 2 * i; j += STRIPE) {
      products<T>(rows, count, j, std::min(j + STRIPE, 2 * i), h, [&](int64_t row) { return w13 + row * w13_step; },
                  [&](int64_t r, int64_t col, float v) { mid.row(r)[col] = v; });
    }
    for (int64_t r = 0; r < count; ++r) {
      float *gate = mid.row(r), *up = gate + i;
      for (int64_t j = 0; j < i; j += LANES) {
        const int64_t part = std::min(LANES, i - j);
        const f32x8 g = load_part(gate + j, part);
        store_part(gate + j, g / (1.0f + exp8(-g)) * load_part(up + j, part), part);
      }
    }
    const float* const* acts = mid.rows.data();
#pragma omp parallel for schedule(static) if (count * h * i >= PARALLEL_FROM)
    for (int64_t j = 0; j < h; j += STRIPE) {
      products<T>(acts, count, j, std::min(j + STRIPE, h), i, [&](int64_t row) { return w2 + row * w2_step; },
                  [&](int64_t r, int64_t col, float v) { output.row(slot[r].token)[col] += v * slot[r].weight; });
    }
  }
}

static void moe_(TensorView hidden_states, TensorView w13, TensorView w2, TensorView topk_weights, TensorView topk_ids,
                 TensorView output) {
  const int64_t tokens = dims("hidden_states", hidden_states, 2, 0), h = hidden_states.size(1);
  const int64_t experts = dims("w2", w2, 3, 0), i = w2.size(2), topk = dims("topk_ids", topk_ids, 2, 1);
  check_shape("hidden_states", hidden_states, {tokens, h});
  check_shape("w13", w13, {experts, 2 * i, h});
  check_shape("w2", w2, {experts, h, i});
  check_shape("topk_weights", topk_weights, {tokens, topk});
  check_shape("topk_ids", topk_ids, {tokens, topk});
  check_shape("output", output, {tokens, h});
  check_dtype<float>("topk_weights", topk_weights);
  check_dtype<int32_t>("topk_ids", topk_ids);

  std::vector<std::vector<Slot>> slots(static_cast<size_t>(experts));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t s = 0; s < topk; ++s) {
      const int64_t expert = data<int32_t>(topk_ids)[t * topk_ids.stride(0) + s];
      if (expert < 0 || expert >= experts) {
        TVM_FFI_THROW(ValueError) << "topk_ids names expert " << expert << " of " << experts << " for token " << t;
      }
      slots[static_cast<size_t>(expert)].push_back({t, data<float>(topk_weights)[t * topk_weights.stride(0) + s]});
    }
  }
  by_dtype("hidden_states", hidden_states, [&](auto element) {
    using T = decltype(element);
    check_dtype<T>("w13", w13);
    check_dtype<T>("w2", w2);
    check_dtype<T>("output", output);
    FloatRows sum;
    sum.resize(tokens, h);
    std::fill(sum.values.begin(), sum.values.end(), 0.0f);
    for (int64_t e = 0; e < experts; ++e) {
      if (slots[static_cast<size_t>(e)].empty()) continue;
      run_expert(slots[static_cast<size_t>(e)], data<T>(hidden_states), hidden_states.stride(0),
                 data<T>(w13) + e * w13.stride(0), w13.stride(1), data<T>(w2) + e * w2.stride(0), w2.stride(1), sum, h, i);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      T* out = data<T>(output) + t * output.stride(0);
      for (int64_t j = 0; j < h; j += LANES) {
        const int64_t part = std::min(LANES, h - j);
        store_part(out + j, load_part(sum.row(t) + j, part), part);
      }
    }
  });
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(moe, moe_);
