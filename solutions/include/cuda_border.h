// What every CUDA kernel checks before it touches memory, as border.h does for the CPU: device, dtype, shape, strides,
// with an error that names the tensor. And what it needs to know of the device that the tensors are on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <initializer_list>

namespace fib {

using tvm::ffi::TensorView;

struct ElementType {
  uint8_t code, bits;
  const char* name;
};
constexpr ElementType BFLOAT16{kDLBfloat, 16, "bfloat16"}, FLOAT32{kDLFloat, 32, "float32"}, INT32{kDLInt, 32, "int32"},
    INT64{kDLInt, 64, "int64"};

inline void check(const char* name, TensorView t, std::initializer_list<int64_t> shape, int device,
                  ElementType type = BFLOAT16) {
  if (t.device().device_type != kDLCUDA) TVM_FFI_THROW(ValueError) << name << " is not in CUDA memory";
  if (t.device().device_id != device) TVM_FFI_THROW(ValueError) << name << " is on another device";
  if (t.dtype().code != type.code || t.dtype().bits != type.bits || t.dtype().lanes != 1) {
    TVM_FFI_THROW(TypeError) << name << " has the wrong dtype, expected " << type.name;
  }
  if (t.ndim() != static_cast<int32_t>(shape.size())) {
    TVM_FFI_THROW(ValueError) << name << " has " << t.ndim() << " dimensions, expected " << shape.size();
  }
  int32_t dim = 0;
  for (int64_t size : shape) {
    if (t.size(dim) != size) {
      TVM_FFI_THROW(ValueError) << name << " has size " << t.size(dim) << " in dimension " << dim << ", expected "
                                << size;
    }
    ++dim;
  }
  // torch gives a dimension of one element any stride it likes.
  if (dim > 0 && t.size(-1) > 1 && t.stride(-1) != 1) {
    TVM_FFI_THROW(ValueError) << name << " has stride " << t.stride(-1) << " in its last dimension, expected 1";
  }
}

template <class T = __nv_bfloat16> T* data(TensorView t) {
  return reinterpret_cast<T*>(static_cast<char*>(t.data_ptr()) + t.byte_offset());
}

// Whether every row starts on 16 bytes.
inline bool aligned(TensorView t) {
  return reinterpret_cast<uintptr_t>(data(t)) % 16 == 0 && (t.ndim() < 2 || t.size(0) <= 1 || t.stride(0) % 8 == 0);
}

// Elements from row to row; torch gives a single row any stride it likes.
inline int64_t row_step(TensorView t) { return t.size(0) > 1 ? t.stride(0) : 0; }

inline cudaStream_t stream_of(TensorView t) {
  return static_cast<cudaStream_t>(TVMFFIEnvGetStream(t.device().device_type, t.device().device_id));
}

inline void expect(cudaError_t result) {
  if (result != cudaSuccess) {
    cudaGetLastError();  // so that the next caller does not find it
    TVM_FFI_THROW(RuntimeError) << "the kernel could not be launched: " << cudaGetErrorString(result);
  }
}

struct Device {
  int major = 0, processors = 0, shared = 0;
};

// Asked once a thread and device.
inline const Device& device_facts(int device) {
  thread_local Device known[64];
  Device& facts = known[device & 63];
  if (facts.major == 0) {
    expect(cudaDeviceGetAttribute(&facts.processors, cudaDevAttrMultiProcessorCount, device));
    expect(cudaDeviceGetAttribute(&facts.shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    expect(cudaDeviceGetAttribute(&facts.major, cudaDevAttrComputeCapabilityMajor, device));
  }
  return facts;
}

}  // namespace fib
