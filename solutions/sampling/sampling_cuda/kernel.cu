// Sampling of the next token from probabilities, filtered by top-k, top-p or both, on Hopper.
//
// Randomness is the kernel's own: one seed per process from the system, then a counter on the device per call and row,
// which goes on when a graph is replayed. It does not follow torch.manual_seed.
#include <random>

#include "cuda_border.h"
#include "draw.h"

using namespace fib;

static uint64_t process_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) ^ device();
}

static void sample(TensorView probs, const TensorView* top_k, const TensorView* top_p, TensorView samples) {
  static const uint64_t seed = process_seed();
  const int device = probs.device().device_id;
  if (probs.ndim() != 2) TVM_FFI_THROW(ValueError) << "probs has " << probs.ndim() << " dimensions, expected 2";
  const int64_t rows = probs.size(0), n = probs.size(1);
  check("probs", probs, {rows, n}, device, FLOAT32);
  check("samples", samples, {rows}, device, INT64);
  if (top_k) check("top_k", *top_k, {rows}, device, INT32);
  if (top_p) check("top_p", *top_p, {rows}, device, FLOAT32);
  if (n == 0) TVM_FFI_THROW(ValueError) << "probs has no columns to draw from";
  if (rows == 0) return;
  const Device& facts = device_facts(device);
  if (facts.major < 9) TVM_FFI_THROW(RuntimeError) << "sampling_cuda needs compute capability 9.0";
  const Draws draws{data<float>(probs), top_k ? data<int32_t>(*top_k) : nullptr, top_p ? data<float>(*top_p) : nullptr,
                    data<int64_t>(samples), static_cast<int>(n), row_step(probs), seed};
  // A row for eight processors while there are enough of them; a small one is not worth so many.
  const bool chained = after_ours(stream_of(probs));
  const int count = static_cast<int>(rows);
  expect(n <= 4096 ? draw<1, 512>(draws, count, chained, facts.shared, stream_of(probs))
                   : draw<8, 512>(draws, count, chained, facts.shared, stream_of(probs)));
}

static void top_k_sampling_(TensorView probs, TensorView top_k, TensorView samples) {
  sample(probs, &top_k, nullptr, samples);
}
static void top_p_sampling_(TensorView probs, TensorView top_p, TensorView samples) {
  sample(probs, nullptr, &top_p, samples);
}
static void top_k_top_p_sampling_(TensorView probs, TensorView top_k, TensorView top_p, TensorView samples) {
  sample(probs, &top_k, &top_p, samples);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(top_k_sampling, top_k_sampling_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(top_p_sampling, top_p_sampling_);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(top_k_top_p_sampling, top_k_top_p_sampling_);
