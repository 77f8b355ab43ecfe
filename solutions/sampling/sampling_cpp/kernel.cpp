// Top-k, top-p and top-k-then-top-p sampling from probabilities, without a sort of the vocabulary.
//
// Randomness is the kernel's own: one seed per process from the system, then a counter per call and row. It does not
// follow torch.manual_seed.
#include <unistd.h>

#include <atomic>
#include <random>

#include "border.h"
#include "draw.h"

using namespace fib;

// A team of threads costs some microseconds: below this many probabilities one thread is faster.
constexpr int64_t PARALLEL_FROM = 1 << 14;

static uint64_t process_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) ^ device();
}

// A number that no other call gets. The process id tells a forked worker from its parent, which hold the same seed.
static uint64_t call_seed() {
  static const uint64_t seed = process_seed();
  static std::atomic<uint64_t> calls{0};
  Random mixed{seed ^ (static_cast<uint64_t>(getpid()) << 40)};
  mixed.state += mixed.next() + calls.fetch_add(1, std::memory_order_relaxed) * 0xd1342543de82ef95ull;
  return mixed.next();
}

// One row. k <= 0 or k >= n is no top-k filter, p >= 1 no top-p filter, p <= 0 the heaviest token. Returns -1 if the
// row holds nothing to draw from.
static int64_t sample(const float* probs, int64_t n, int64_t k, bool has_k, double p, Random& random) {
  if (!has_k || k <= 0 || k >= n) {
    const double total = mass_before(probs, n, END);
    if (!(total > 0.0) || !std::isfinite(total)) return -1;
    // Without top-k the weights are taken as the probabilities that they are; with it they are renormalised first.
    return draw(probs, n, total, p >= 1.0 ? total : has_k ? p * total : p, random);
  }
  static thread_local Kept kept;
  kept.select(probs, n, k);
  const int64_t count = static_cast<int64_t>(kept.values.size());
  const double total = mass_before(kept.values.data(), count, END);
  if (!(total > 0.0) || !std::isfinite(total)) return -1;
  const int64_t i = draw(kept.values.data(), count, total, p >= 1.0 ? total : p * total, random);
  return kept.indices[static_cast<size_t>(i)];
}

static void sample_rows(TensorView probs, const TensorView* top_k, const TensorView* top_p, TensorView samples) {
  const int64_t rows = dims("probs", probs, 2, 0), n = probs.size(1);
  check_shape("probs", probs, {rows, n});
  check_dtype<float>("probs", probs);
  check_shape("samples", samples, {rows});
  check_dtype<int64_t>("samples", samples);
  if (top_k) check_shape("top_k", *top_k, {rows}), check_dtype<int32_t>("top_k", *top_k);
  if (top_p) check_shape("top_p", *top_p, {rows}), check_dtype<float>("top_p", *top_p);
  if (n == 0) TVM_FFI_THROW(ValueError) << "probs has no columns to draw from";

  const float* in = data<float>(probs);
  const int32_t* ks = top_k ? data<int32_t>(*top_k) : nullptr;
  const float* ps = top_p ? data<float>(*top_p) : nullptr;
  int64_t* out = data<int64_t>(samples);
  const int64_t step = probs.stride(0);
  const uint64_t seed = call_seed();
  int64_t bad = -1;
#pragma omp parallel for schedule(dynamic) if (rows > 1 && rows * n >= PARALLEL_FROM)
  for (int64_t r = 0; r < rows; ++r) {
    Random random{seed + static_cast<uint64_t>(r) * 0xa0761d6478bd642full};
    out[r] = sample(in + r * step, n, ks ? ks[r] : 0, ks != nullptr, ps ? ps[r] : 1.0, random);
    if (out[r] < 0) {
#pragma omp atomic write
      bad = r;
    }
  }
  if (bad >= 0) TVM_FFI_THROW(ValueError) << "row " << bad << " of probs sums to zero or is not finite";
}

static void top_k_sampling_(TensorView probs, TensorView top_k, TensorView samples) {
  sample_rows(probs, &top_k, nullptr, samples);
}
static void top_p_sampling_(TensorView probs, TensorView top_p, TensorView samples) {
  sample_rows(probs, nullptr, &top_p, samples);
}
static void top_k_top_p_sampling_(TensorView probs, TensorView top_k, TensorView top_p, TensorView samples) {
  sample_rows(probs, &top_k, &top_p, samples);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(top_k_sampling, top_k_sampling_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(top_p_sampling, top_p_sampling_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(top_k_top_p_sampling, top_k_top_p_sampling_);
