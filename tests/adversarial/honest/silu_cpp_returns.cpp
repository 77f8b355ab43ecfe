// C++ that allocates its output and returns it.
// honest: definition=silu
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

#include <cmath>

namespace ffi = tvm::ffi;

ffi::Tensor run(ffi::TensorView x) {
  const int64_t rows = x.size(0), d = x.size(1) / 2;
  ffi::Tensor made = ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, {rows, d}, x.dtype(), x.device());
  const float* in = static_cast<const float*>(x.data_ptr());
  float* out = static_cast<float*>(made.data_ptr());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < d; ++c) {
      const float g = in[r * 2 * d + c];
      out[r * d + c] = g / (1.0f + std::exp(-g)) * in[r * 2 * d + d + c];
    }
  return made;
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
