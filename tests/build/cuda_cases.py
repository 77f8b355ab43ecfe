"""CUDA solutions of the smallest kind: they add one. Each binding with destinations, and returning its result."""

from __future__ import annotations

from build_cases import make

from fib_plugin.schema import Solution

_KERNEL = """
__global__ void add_one(const float* from, float* to, int64_t count) {
  int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < count) to[i] = from[i] + 1.0f;
}

static void launch(const void* from, void* to, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  add_one<<<(count + 255) / 256, 256, 0, stream>>>(static_cast<const float*>(from), static_cast<float*>(to), count);
}
"""

_TVM_FFI = (
    """
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
"""
    + _KERNEL
    + """
static cudaStream_t stream_of(tvm::ffi::TensorView x) {
  return static_cast<cudaStream_t>(TVMFFIEnvGetStream(x.device().device_type, x.device().device_id));
}
"""
)

_TVM_FFI_INTO = """
void run(tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView y) {
  launch(x.data_ptr(), y.data_ptr(), x.numel(), stream_of(x));
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

_TVM_FFI_RETURNING = """
tvm::ffi::Tensor run(tvm::ffi::TensorView x, tvm::ffi::TensorView weight) {
  auto y = tvm::ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, x.shape(), x.dtype(), x.device());
  launch(x.data_ptr(), y.data_ptr(), x.numel(), stream_of(x));
  return y;
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

_TORCH = (
    """
#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/utils/pybind.h>
"""
    + _KERNEL
)

_TORCH_INTO = """
void run(at::Tensor x, at::Tensor weight, at::Tensor y) {
  launch(x.const_data_ptr(), y.mutable_data_ptr(), x.numel(), c10::cuda::getCurrentCUDAStream());
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run); }
"""

_TORCH_RETURNING = """
at::Tensor run(at::Tensor x, at::Tensor weight) {
  auto y = at::empty_like(x);
  launch(x.const_data_ptr(), y.mutable_data_ptr(), x.numel(), c10::cuda::getCurrentCUDAStream());
  return y;
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run); }
"""

SOURCES = {
    ("tvm-ffi", "into"): _TVM_FFI + _TVM_FFI_INTO,
    ("tvm-ffi", "returning"): _TVM_FFI + _TVM_FFI_RETURNING,
    ("torch", "into"): _TORCH + _TORCH_INTO,
    ("torch", "returning"): _TORCH + _TORCH_RETURNING,
}


def make_cuda(binding: str, style: str) -> Solution:
    """One of `SOURCES` as a solution."""
    return make(
        {"kernel.cu": SOURCES[binding, style]},
        name=f"{binding}_{style}",
        language="cuda",
        binding=binding,
        target_hardware=["cuda"],
        destination_passing_style=style == "into",
    )
