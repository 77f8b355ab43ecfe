"""The environment of a measurement, and whether it is ours."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from fib_plugin.dataset import compatible, current_environment
from fib_plugin.dataset.environment import hardware
from fib_plugin.schema import Environment

CUDA = {"torch": "2.9.1+cu128", "cuda": "12.8", "vllm": "0.22.1", "python": "3.11.9"}


def environment(hardware: str = "GPU", **libs: str) -> Environment:
    return Environment(hardware=hardware, libs={**CUDA, **libs})


@pytest.mark.parametrize(
    "other",
    [
        environment(),
        environment(torch="2.9.0", vllm="0.22.9.dev1+g1", python="3.12.0"),
        Environment(hardware="GPU", libs={"torch": "2.9"}),
        Environment(hardware="GPU"),
        environment(sglang="0.5"),
    ],
)
def test_patch_versions_and_libraries_that_one_side_lacks_do_not_matter(other: Environment) -> None:
    assert compatible(environment(), other) is None


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (environment("other GPU"), "hardware"),
        (environment(torch="2.10.0"), "torch"),
        (environment(cuda="13.8"), "cuda"),
        (environment(vllm="0.2"), "vllm"),
    ],
)
def test_another_device_or_minor_version_is_a_reason(other: Environment, word: str) -> None:
    assert word in (compatible(environment(), other) or "")
    assert word in (compatible(other, environment()) or "")


def torch_with(initialized: bool, name: str = "Big GPU") -> Any:
    def device_name(_: int) -> str:
        assert initialized, "asking would initialise CUDA"
        return name

    cuda = SimpleNamespace(is_initialized=lambda: initialized, current_device=lambda: 0, get_device_name=device_name)
    return SimpleNamespace(version=SimpleNamespace(cuda="12.8"), cuda=cuda)


def test_the_device_is_the_gpu_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_with(initialized=True))
    assert hardware() == "Big GPU"


def test_the_driver_is_asked_while_cuda_is_not_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_with(initialized=False))
    monkeypatch.setattr("fib_plugin.dataset.environment._driver_gpu", lambda: "Driver GPU")
    assert hardware() == "Driver GPU"


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fib_plugin.dataset.environment._cpu", lambda: "some CPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=None), cuda=None))
    assert hardware() == "some CPU"
    monkeypatch.delitem(sys.modules, "torch")
    assert hardware() == "some CPU"


def test_the_environment_names_this_python_and_this_plugins_libraries() -> None:
    found = current_environment()
    assert found.hardware
    assert found.libs["python"] == ".".join(map(str, sys.version_info[:3]))


def test_reading_datasets_imports_no_torch() -> None:
    code = (
        "import sys, fib_plugin.schema, fib_plugin.dataset as d; d.current_environment(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
