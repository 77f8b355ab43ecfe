// C++ that writes into the given output.
// honest: definition=silu into=1
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

#include <cmath>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView output) {
  const float* in = static_cast<const float*>(x.data_ptr());
  float* out = static_cast<float*>(output.data_ptr());
  const int64_t rows = x.size(0), d = x.size(1) / 2;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < d; ++c) {
      const float g = in[r * 2 * d + c];
      out[r * d + c] = g / (1.0f + std::exp(-g)) * in[r * 2 * d + d + c];
    }
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
