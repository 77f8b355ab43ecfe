"""Which device a child sees, and which one the parent asks NVML about: of several, and of parts of one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from fib_plugin.bench import conditions
from fib_plugin.bench.environment import environment


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [
        (None, "cuda:1", "1"),
        ("", "cuda:1", "1"),
        ("2,5", "cuda:0", "2"),
        ("2,5", "cuda:1", "5"),
        ("2, 5", "cuda:1", "5"),
        ("GPU-aa,GPU-bb", "cuda:1", "GPU-bb"),
        ("MIG-aa, MIG-bb", "cuda:1", "MIG-bb"),
        ("2,5", "cuda", "2,5"),
    ],
)
@pytest.mark.parametrize("role", ["solution", "referee"])
def test_a_child_sees_the_device_that_its_parent_counts(
    visible: str | None, device: str, seen: str, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment(device, 1, tmp_path, role)["CUDA_VISIBLE_DEVICES"] == seen


def test_the_order_in_which_devices_are_counted_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert environment("cuda:1", 1, tmp_path, "solution")["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


class _Nvml(ModuleType):
    """Knows devices by their names, and which whole a part belongs to."""

    class NVMLError(Exception):
        pass

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__("pynvml")
        self._names = names

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if name not in self._names:
            raise self.NVMLError(name)
        return name

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part: str) -> str:
        return self._names[part]


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's devices 0 and 1 are called b and a, as the variable that makes them visible may have it."""
    named = {0: SimpleNamespace(uuid="b"), 1: SimpleNamespace(uuid="a"), None: SimpleNamespace(uuid="b")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: named[device.index])


@pytest.mark.parametrize(("device", "name"), [("cuda", "GPU-b"), ("cuda:0", "GPU-b"), ("cuda:1", "GPU-a")])
def test_nvml_is_asked_by_name_and_not_by_number(device: str, name: str, two_devices: None) -> None:
    nvml = _Nvml({"GPU-a": "", "GPU-b": ""})
    assert conditions._handle(nvml, device) == name


def test_of_a_part_of_a_device_the_whole_is_looked_at(two_devices: None) -> None:
    nvml = _Nvml({"MIG-a": "the whole of a", "GPU-b": ""})
    assert conditions._handle(nvml, "cuda:1") == "the whole of a"


def test_a_device_that_nvml_does_not_know_is_timed_all_the_same(
    two_devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = _Nvml({})
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with conditions.Watch("cuda:1") as watch:
        pass
    assert watch.conditions().mhz is None
