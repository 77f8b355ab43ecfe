"""What the machine was like while times were taken, by a made-up NVML and a made-up /proc and /sys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from fib_plugin.bench import conditions
from fib_plugin.bench.conditions import Watch
from fib_plugin.bench.results import why_doubted
from fib_plugin.dataset import Conditions


class Nvml(ModuleType):
    """A device that is asked for its state: each answer is one of a list, the last one for ever."""

    def __init__(self, clocks: list[int], reasons: list[int], temperatures: list[int]) -> None:
        super().__init__("pynvml")
        self.asked_for = b""
        self.open = 0

        def answers(values: list[int]) -> Callable[..., int]:
            left = list(values)
            return lambda *_: left.pop(0) if len(left) > 1 else left[0]

        by_kind = {1: answers(clocks), 2: answers([2619])}
        self.nvmlDeviceGetClockInfo = lambda handle, kind: by_kind[kind]()
        self.nvmlDeviceGetTemperature = answers(temperatures)
        self.nvmlDeviceGetPowerUsage = answers([412_500])
        self.nvmlDeviceGetCurrentClocksThrottleReasons = answers(reasons)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        assert name == "GPU-7a5c"
        return name


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda which: SimpleNamespace(uuid="7a5c"))
    monkeypatch.setattr(conditions, "_EVERY_S", 0.001)


def watched(monkeypatch: pytest.MonkeyPatch, nvml: Any) -> Conditions:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Watch("cuda:0") as watch:
        if isinstance(nvml, Nvml):
            for _ in range(200):
                if len(watch._eye._temperature) > 4:  # type: ignore[union-attr]
                    break
                conditions.threading.Event().wait(0.005)
    return watch.conditions(0.25)


def test_a_gpus_clocks_are_those_before_and_after_and_its_heat_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml([1980, 1755], [0], [50, 71, 60])
    found = watched(monkeypatch, nvml)
    assert (found.mhz, found.memory_mhz) == ((1980.0, 1755.0), (2619.0, 2619.0))
    assert (found.temperature_c, found.power_w, found.held) == (71.0, 412.5, 0.25)
    assert found.throttled == ()
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (0x04, "sw_power_cap"),
        (0x08, "hw_slowdown"),
        (0x20, "sw_thermal"),
        (0x40, "hw_thermal"),
        (0x80, "hw_power_brake"),
    ],
)
def test_throttling_that_ended_before_the_timing_did_is_seen(
    reason: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(monkeypatch, Nvml([1980], [0, 0, reason, 0], [50])).throttled == (name,)


@pytest.mark.parametrize("reason", [0x01, 0x02, 0x10, 0x100])
def test_an_idle_device_or_a_clock_that_was_asked_for_is_no_throttling(
    reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(monkeypatch, Nvml([1980], [reason], [50])).throttled == ()


def test_the_newer_name_of_a_question_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml([1980], [0x40], [50])
    nvml.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x20
    assert watched(monkeypatch, nvml).throttled == ("sw_thermal",)


def test_a_question_that_a_driver_refuses_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise RuntimeError("Not Supported")

    nvml = Nvml([1980], [0x40], [50])
    nvml.nvmlDeviceGetPowerUsage = nvml.nvmlDeviceGetClockInfo = refuse
    found = watched(monkeypatch, nvml)
    assert (found.mhz, found.power_w, found.temperature_c, found.throttled) == (None, None, 50.0, ("hw_thermal",))


@pytest.mark.parametrize("nvml", [None, ModuleType("pynvml")], ids=["not installed", "no driver"])
def test_without_nvml_a_gpu_is_timed_all_the_same(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched(monkeypatch, nvml)
    assert (found.mhz, found.throttled, found.held) == (None, (), 0.25)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Two cores at 2 and 3 GHz."""
    for core, khz in enumerate((2_000_000, 3_000_000)):
        for name, text in {
            "cpufreq/scaling_cur_freq": khz,
            "cpufreq/scaling_governor": "powersave",
            "thermal_throttle/core_throttle_count": 7,
        }.items():
            file = tmp_path / f"sys/devices/system/cpu/cpu{core}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 0 50 800 0 0 0 50 0 0\ncpu0 1 2\n")
    return tmp_path


def test_a_cpus_clock_governor_and_stolen_time_are_told(host: Path) -> None:
    eye = conditions._Cpu(host)
    eye.begin()
    (host / "proc/stat").write_text("cpu  150 0 50 820 0 0 0 80 0 0\n")
    eye.end()
    found = eye.found(0.5)
    assert (found.mhz, found.governor, found.held, found.throttled) == ((2500.0, 2500.0), "powersave", 0.5, ())
    assert found.stolen == pytest.approx(0.3)


def test_a_cpu_that_grew_too_hot_meanwhile_was_throttled(host: Path) -> None:
    eye = conditions._Cpu(host)
    eye.begin()
    (host / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").write_text("9\n")
    eye.end()
    assert eye.found(None).throttled == ("thermal",)


def test_a_cpu_that_tells_nothing_is_timed_all_the_same(tmp_path: Path) -> None:
    eye = conditions._Cpu(tmp_path)
    eye.begin()
    eye.end()
    found = eye.found(0.0)
    assert (found.mhz, found.governor, found.throttled, found.stolen) == (None, "", (), None)


def test_the_clock_of_this_machine_is_found_where_it_tells_it() -> None:
    with Watch("cpu") as watch:
        pass
    found = watch.conditions()
    if "cpu MHz" in Path("/proc/cpuinfo").read_text():
        assert found.mhz is not None
        assert found.mhz[0] > 100


def test_what_is_not_known_takes_no_room_on_disk() -> None:
    assert msgspec.json.encode(Conditions(load=1.5)) == b'{"load":1.5}'


def outcome(**known: Any) -> Any:
    return SimpleNamespace(conditions=Conditions(**known))


def test_a_throttled_run_and_a_warm_one_that_was_asked_for_prove_no_win() -> None:
    cold, asked = SimpleNamespace(asked=False), SimpleNamespace(asked=True)
    assert why_doubted(cold, outcome()) == ""  # type: ignore[arg-type]
    assert "throttled meanwhile (hw_thermal)" in why_doubted(cold, outcome(throttled=("hw_thermal",)))  # type: ignore[arg-type]
    assert "without --warm" in why_doubted(asked, outcome())  # type: ignore[arg-type]
