"""C++ solutions through both bindings, and what is said when the host cannot compile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from build_cases import CPP, DEFINITION, HIDDEN, RETURNING_CPP, RETURNING_TORCH_CPP, TORCH_CPP, make, make_cpp

from fib_plugin.build import BuildError, build

X, WEIGHT = torch.randn(3, HIDDEN), torch.ones(HIDDEN)


def test_a_tvm_ffi_solution_takes_torch_tensors(shared_cache: Path) -> None:
    runnable = build(make_cpp(), DEFINITION, shared_cache)
    y = torch.empty_like(X)
    runnable.into(X, WEIGHT, y)
    assert torch.equal(y, X + 1)
    assert torch.equal(runnable.call(X, WEIGHT), X + 1)


def openmp_runtimes() -> set[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in maps if "libgomp" in line or "libiomp" in line}


def test_a_compiled_solution_shares_torchs_openmp_runtime(shared_cache: Path) -> None:
    before = openmp_runtimes()  # torch's; a package that another test imported may have brought its own
    assert before
    build(make_cpp(), DEFINITION, shared_cache)
    assert openmp_runtimes() == before


def test_a_torch_binding_solution_is_compiled_and_found_again(shared_cache: Path) -> None:
    for _ in range(2):
        runnable = build(make_cpp(TORCH_CPP, binding="torch"), DEFINITION, shared_cache)
        assert torch.equal(runnable.call(X, WEIGHT), X + 1)


@pytest.mark.parametrize(("binding", "source"), [("tvm-ffi", RETURNING_CPP), ("torch", RETURNING_TORCH_CPP)])
def test_a_compiled_solution_may_return_its_result(binding: str, source: str, shared_cache: Path) -> None:
    solution = make_cpp(source, binding=binding, destination_passing_style=False)
    runnable = build(solution, DEFINITION, shared_cache)
    result, y = runnable.call(X, WEIGHT), torch.empty_like(X)
    runnable.into(X, WEIGHT, y)
    assert type(result) is torch.Tensor
    assert torch.equal(result, X + 1)
    assert torch.equal(y, X + 1)


def test_headers_of_the_solution_are_on_the_include_path(shared_cache: Path) -> None:
    source = CPP.replace("+ 1.0f", "+ ONE").replace(
        "#include <tvm/ffi/function.h>", '#include "inc/one.h"\n#include <tvm/ffi/function.h>'
    )
    solution = make({"kernel.cpp": source, "inc/one.h": "#pragma once\nconstexpr float ONE = 1.0f;\n"}, language="cpp")
    assert torch.equal(build(solution, DEFINITION, shared_cache).call(X, WEIGHT), X + 1)


def test_a_compile_error_carries_the_compilers_words(shared_cache: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build(make_cpp(CPP.replace("from[i]", "form[i]")), DEFINITION, shared_cache)
    assert "'form' was not declared" in caught.value.log.replace("‘", "'").replace("’", "'")  # noqa: RUF001
    assert "kernel.cpp:" in caught.value.log


def test_a_symbol_that_is_not_exported_names_the_remedy(shared_cache: Path) -> None:
    with pytest.raises(BuildError, match=r"^candidate: .*TVM_FFI_DLL_EXPORT_TYPED_FUNC\(main, "):
        build(make_cpp(entry_point="kernel.cpp::main"), DEFINITION, shared_cache)


def test_a_missing_compiler_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="apt-get install"):
        build(make_cpp(), DEFINITION, tmp_path)


def test_a_missing_ninja_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho compiler 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(BuildError, match="pip install ninja"):
        build(make_cpp(), DEFINITION, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_solution_says_that_this_host_has_no_cuda(tmp_path: Path) -> None:
    solution = make({"kernel.cu": CPP}, language="cuda")
    with pytest.raises(BuildError, match="needs a CUDA device"):
        build(solution, DEFINITION, tmp_path)
