"""What a compiled artifact is keyed by: sources, language, binding, compiler, flags, processor, GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from build_cases import CPP, PYTHON, make, make_cpp

from fib_plugin.build import BuildError, toolchain
from fib_plugin.build.builder import artifact
from fib_plugin.schema import Solution

CUDA = make({"kernel.cu": CPP}, language="cuda")


def fake_compiler(folder: Path, says: str, name: str = "c++") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {says}\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A toolkit that says its version, and a device of capability 9.0; the toolkit's folder."""
    home = tmp_path / "cuda"
    fake_compiler(home / "bin", "release 13.0", "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(toolchain, "capability", lambda: (9, 0))
    return home


def fingerprint(solution: Solution | None = None) -> str:
    return toolchain.toolchain(solution or make_cpp()).fingerprint


def test_the_compiler_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for version in ("13", "14"):
        monkeypatch.setenv("CXX", str(fake_compiler(tmp_path / version, f"g++ {version}")))
        found.add(fingerprint())
    assert len(found) == 2


def test_the_compiler_behind_a_launcher_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "ccache"
    launcher.write_text('#!/bin/sh\n[ "$1" = --version ] && echo ccache || exec "$@"\n')
    launcher.chmod(0o755)
    found = set()
    for version in ("13", "14"):
        monkeypatch.setenv("CXX", f"{launcher} {fake_compiler(tmp_path / version, f'g++ {version}')}")
        found.add(fingerprint())
    assert len(found) == 2


def test_the_processor_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for model in ("Xeon 8480", "EPYC 9654"):
        monkeypatch.setattr(toolchain, "cpu", lambda model=model: model)
        found.add(fingerprint())
    assert len(found) == 2
    monkeypatch.undo()
    if Path("/proc/cpuinfo").exists():
        assert any(line.startswith(("flags", "Features")) for line in toolchain.cpu().splitlines())


def test_the_binding_is_part_of_the_key() -> None:
    assert fingerprint(make_cpp(binding="tvm-ffi")) != fingerprint(make_cpp(binding="torch"))


def test_the_gpu_is_part_of_the_key_of_cuda_solutions_only(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hopper = fingerprint(CUDA)
    monkeypatch.setattr(toolchain, "capability", lambda: (8, 0))
    assert fingerprint(CUDA) != hopper
    monkeypatch.setattr(toolchain, "capability", lambda: pytest.fail("a C++ solution asked for the GPU"))
    fingerprint(make_cpp())


def test_a_cuda_source_beside_cpp_makes_it_a_cuda_build(gpu: Path) -> None:
    mixed = make({"kernel.cpp": CPP, "more.cu": CPP}, language="cpp")
    assert "sm 9.0a" in toolchain.toolchain(mixed).description


def test_the_cuda_compiler_is_part_of_the_key(gpu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = fingerprint(CUDA)
    other = tmp_path / "other"
    fake_compiler(other / "bin", "release 12.8", "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(other))
    assert fingerprint(CUDA) != before


def test_cuda_is_compiled_for_the_device_whatever_the_image_asks_for(
    gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(CUDA)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.0 8.0 9.0 12.0+PTX")
    monkeypatch.setenv("TVM_FFI_CUDA_ARCH_LIST", "8.0")
    tools = toolchain.toolchain(CUDA)
    assert tools.fingerprint == before
    assert {tools.environment[f"{name}_CUDA_ARCH_LIST"] for name in ("TORCH", "TVM_FFI")} == {"9.0a"}


@pytest.mark.parametrize(
    ("capability", "architecture"), [((8, 0), "8.0"), ((8, 9), "8.9"), ((9, 0), "9.0a"), ((12, 0), "12.0a")]
)
def test_features_of_one_generation_are_compiled_for_from_hopper_on(
    capability: tuple[int, int], architecture: str
) -> None:
    assert toolchain.cuda_architecture(*capability) == architecture


def test_the_toolkit_is_the_named_one_or_a_whole_one(tmp_path: Path) -> None:
    script, real, named = tmp_path / "script", tmp_path / "real", tmp_path / "named"
    for home in (script, real, named):
        fake_compiler(home / "bin", "x", "nvcc")
    (real / "include").mkdir()
    (real / "include" / "cuda_runtime.h").touch()
    path = {"PATH": str(script / "bin")}
    assert toolchain.cuda_home(path | {"CUDA_PATH": str(named)}, real) == named
    assert toolchain.cuda_home(path, real) == real
    assert toolchain.cuda_home(path, tmp_path / "none") == script
    (script / "bin" / "nvcc").unlink()
    (script / "bin" / "nvcc").symlink_to(real / "bin" / "nvcc")
    assert toolchain.cuda_home(path, tmp_path / "none") == real


def test_a_missing_toolkit_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="set CUDA_HOME"):
        toolchain.cuda_home({"PATH": str(tmp_path)}, tmp_path / "none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_host_without_a_gpu_is_named() -> None:
    with pytest.raises(BuildError, match="needs a CUDA device"):
        toolchain.toolchain(CUDA)


def test_equal_sources_in_other_languages_share_nothing() -> None:
    made = [make(PYTHON), make(PYTHON, language="triton"), make(PYTHON, language="cpp")]
    assert len({artifact(solution) for solution in made}) == 3


def test_equal_sources_under_other_names_share_their_artifact() -> None:
    assert artifact(make_cpp()) == artifact(make({"kernel.cpp": CPP}, name="other", language="cpp", binding="tvm-ffi"))
