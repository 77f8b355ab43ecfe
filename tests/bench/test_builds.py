"""A benchmark is where a person mends a build: failures on record do not keep it from compiling."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_cases import NORM, dataset, solution

from fib_plugin.bench import run_bench
from fib_plugin.build import BuildError, build, ready

CPP = """
#include <cmath>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView weight, tvm::ffi::TensorView y) {
  const float *from = static_cast<const float*>(x.data_ptr()), *scale = static_cast<const float*>(weight.data_ptr());
  float* to = static_cast<float*>(y.data_ptr());
  for (int64_t row = 0; row < x.size(0); ++row) {
    double sum = 0;
    for (int64_t i = row * 64; i < row * 64 + 64; ++i) sum += from[i] * from[i];
    const double factor = 1.0 / std::sqrt(sum / 64 + 1e-5);
    for (int64_t i = 0; i < 64; ++i) to[row * 64 + i] = from[row * 64 + i] * factor * scale[i];
  }
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


def test_a_build_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, broken, program = tmp_path / "cache", tmp_path / "broken", tmp_path / "c++"
    program.write_text(
        f'#!/bin/sh\n[ "$1" != --version ] && [ -e {broken} ] && echo "error: no headers" && exit 1\nexec c++ "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    candidate = solution("candidate", CPP, into=True, language="cpp", entry_point="kernel.cpp::run", binding="tvm-ffi")
    traces = dataset(tmp_path / "dataset", candidate)
    broken.touch()
    (result,) = run_bench(traces, cache=cache)
    assert result.status.value == "COMPILE_ERROR"
    assert "no headers" in result.log
    broken.unlink()
    assert ready(candidate, cache)
    with pytest.raises(BuildError, match="no headers"):
        build(candidate, NORM, cache)
    (result,) = run_bench(traces, cache=cache)
    assert result.status.value == "PASSED", result.log
    build(candidate, NORM, cache)
