// What every kernel checks before it touches memory: device, dtype, shape and strides, with an error that names the
// tensor. Everything past this border may trust its pointers.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>

#include "vec.h"

namespace fib {

using tvm::ffi::TensorView;

inline std::string show(const int64_t* sizes, int64_t n) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < n; ++i) text << (i ? ", " : "") << sizes[i];
  text << "]";
  return text.str();
}

inline bool is_dtype(TensorView t, uint8_t code, uint8_t bits) {
  return t.dtype().code == code && t.dtype().bits == bits && t.dtype().lanes == 1;
}

template <class T> struct DType;
template <> struct DType<float> { static constexpr uint8_t code = kDLFloat, bits = 32; static constexpr const char* name = "float32"; };
template <> struct DType<bf16> { static constexpr uint8_t code = kDLBfloat, bits = 16; static constexpr const char* name = "bfloat16"; };
template <> struct DType<int32_t> { static constexpr uint8_t code = kDLInt, bits = 32; static constexpr const char* name = "int32"; };
template <> struct DType<int64_t> { static constexpr uint8_t code = kDLInt, bits = 64; static constexpr const char* name = "int64"; };

// The tensor is on the CPU, has exactly this shape, and neighbours in its last dimension lie side by side.
inline void check_shape(const char* name, TensorView t, std::initializer_list<int64_t> shape) {
  if (t.device().device_type != kDLCPU) TVM_FFI_THROW(ValueError) << name << " is not in CPU memory";
  bool same = t.ndim() == static_cast<int32_t>(shape.size());
  int32_t dim = 0;
  for (int64_t size : shape) {
    if (!same) break;
    same = t.size(dim++) == size;
  }
  if (!same) {
    TVM_FFI_THROW(ValueError) << name << " has shape " << show(t.shape().data(), t.ndim()) << ", expected "
                              << show(shape.begin(), static_cast<int64_t>(shape.size()));
  }
  // torch gives a dimension of one element any stride it likes, and an empty tensor has nothing to read.
  if (t.ndim() > 0 && t.size(-1) > 1 && t.stride(-1) != 1) {
    TVM_FFI_THROW(ValueError) << name << " has stride " << t.stride(-1) << " in its last dimension, expected 1";
  }
}

template <class T> void check_dtype(const char* name, TensorView t) {
  if (!is_dtype(t, DType<T>::code, DType<T>::bits)) {
    TVM_FFI_THROW(TypeError) << name << " has the wrong dtype, expected " << DType<T>::name;
  }
}

inline int64_t dims(const char* name, TensorView t, int32_t ndim, int32_t dim) {
  if (t.ndim() != ndim) TVM_FFI_THROW(ValueError) << name << " has " << t.ndim() << " dimensions, expected " << ndim;
  return t.size(dim);
}

template <class T> T* data(TensorView t) {
  return reinterpret_cast<T*>(static_cast<char*>(t.data_ptr()) + t.byte_offset());
}

// Calls f with a value of the element type of t, so that one template serves bfloat16 and float32.
template <class F> void by_dtype(const char* name, TensorView t, F&& f) {
  if (is_dtype(t, kDLBfloat, 16)) {
    f(bf16{});
  } else if (is_dtype(t, kDLFloat, 32)) {
    f(float{});
  } else {
    TVM_FFI_THROW(TypeError) << name << " has the wrong dtype, expected bfloat16 or float32";
  }
}

}  // namespace fib
