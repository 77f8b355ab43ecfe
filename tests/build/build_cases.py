"""A definition and solutions in every language, for the tests of building."""

from __future__ import annotations

from typing import Any

from fib_plugin import ops
from fib_plugin.schema import BuildSpec, Definition, Solution, SourceFile

HIDDEN = 64
DEFINITION = ops.ALL["rmsnorm"].definition(hidden_size=HIDDEN, eps=1e-5, dtype="float32")
TWO_OUTPUTS = ops.ALL["fused_add_rmsnorm"].definition(hidden_size=HIDDEN, eps=1e-5, dtype="float32")

CPP = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView y) {
  const float* from = static_cast<const float*>(x.data_ptr());
  float* to = static_cast<float*>(y.data_ptr());
#pragma omp parallel for if (x.numel() > 100000)
  for (int64_t i = 0; i < x.numel(); ++i) to[i] = from[i] + 1.0f;
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

TORCH_CPP = """
#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

void run(at::Tensor x, at::Tensor weight, at::Tensor y) { y.copy_(x); y.add_(1); }

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run); }
"""

RETURNING_CPP = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

tvm::ffi::Tensor run(tvm::ffi::TensorView x, tvm::ffi::TensorView weight) {
  auto y = tvm::ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, x.shape(), x.dtype(), x.device());
  const float* from = static_cast<const float*>(x.data_ptr());
  float* to = static_cast<float*>(y.data_ptr());
  for (int64_t i = 0; i < x.numel(); ++i) to[i] = from[i] + 1.0f;
  return y;
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""

RETURNING_TORCH_CPP = """
#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

at::Tensor run(at::Tensor x, at::Tensor weight) { return x.add(1); }

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run); }
"""

PYTHON = """
import torch


def run(x, weight, y):
    torch.add(x, 1, out=y)
"""

RETURNING = """
def run(x, weight):
    return x + 1
"""


def make(
    sources: str | dict[str, str], definition: Definition = DEFINITION, name: str = "candidate", **spec: Any
) -> Solution:
    """A solution; one source text becomes kernel.py."""
    files = {"kernel.py": sources} if isinstance(sources, str) else sources
    settings = {"language": "python", "target_hardware": ["cpu"], "entry_point": f"{next(iter(files))}::run"} | spec
    return Solution(
        name=name,
        definition=definition.name,
        author="tests",
        spec=BuildSpec(**settings),
        sources=[SourceFile(path=path, content=content) for path, content in files.items()],
    )


def make_cpp(source: str = CPP, **spec: Any) -> Solution:
    """A C++ solution; by default it adds one and is bound by tvm-ffi."""
    return make({"kernel.cpp": source}, **({"language": "cpp", "binding": "tvm-ffi"} | spec))
