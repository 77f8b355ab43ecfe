"""Conditions of a timing: clocks, temperature, power and throttling of a GPU; clocks, load and throttling of a CPU.

Read by the parent, beside the sides that take turns. What cannot be read is left out: no benchmark fails for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import Self

from fib_plugin.dataset.conditions import Conditions

_EVERY_S = 0.02
#: NVML's clocks event reasons (nvml.h) that slow a device below what it was asked for.
_REASONS = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}
_SM, _MEMORY, _ON_DIE = 1, 2, 0
_Pair = tuple[float, float] | None


class Watch:
    """Use as a context manager around a timing; `conditions` tells afterwards.

    A GPU is looked at every 20 ms from a thread, since what slows it down may end with the work; its time is taken by
    its own events, which the thread does not disturb. A CPU is looked at before and after.
    """

    def __init__(self, device: str) -> None:
        self._eye: _Gpu | _Cpu = _Gpu(device) if device.startswith("cuda") else _Cpu()

    def __enter__(self) -> Self:
        self._eye.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._eye.end()

    def conditions(self, held: float | None = None) -> Conditions:
        """``held``: share of the bursts' time for which the sides had no core."""
        return self._eye.found(held)


class _Gpu:
    """By NVML; nvidia-ml-py is where torch with CUDA and the engines are."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._nvml: Any = None
        self._handle: Any = None
        self._before: tuple[float | None, float | None] = (None, None)
        self._after: tuple[float | None, float | None] = (None, None)
        self._temperature: list[float] = []
        self._power: list[float] = []
        self._reasons = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        with contextlib.suppress(Exception):  # not installed, no driver, a device that it does not know
            import pynvml

            pynvml.nvmlInit()
            self._handle = _handle(pynvml, self._device)
            self._nvml = pynvml
        if self._nvml is None:
            return
        self._before = self._clock(_SM), self._clock(_MEMORY)
        self._look()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True, name="fib-bench-nvml")
        self._thread.start()

    def end(self) -> None:
        if self._nvml is None or self._thread is None:
            return
        self._after = self._clock(_SM), self._clock(_MEMORY)
        self._over.set()
        self._thread.join(timeout=5.0)
        self._look()
        with contextlib.suppress(Exception):
            self._nvml.nvmlShutdown()

    def found(self, held: float | None) -> Conditions:
        return Conditions(
            mhz=_pair(self._before[0], self._after[0]),
            memory_mhz=_pair(self._before[1], self._after[1]),
            temperature_c=max(self._temperature, default=None),
            power_w=max(self._power, default=None),
            throttled=tuple(name for bit, name in _REASONS.items() if self._reasons & bit),
            load=_load(),
            held=held,
        )

    def _keep_looking(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        nvml, handle = self._nvml, self._handle
        with contextlib.suppress(Exception):
            self._temperature.append(float(nvml.nvmlDeviceGetTemperature(handle, _ON_DIE)))
        with contextlib.suppress(Exception):
            self._power.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
        with contextlib.suppress(Exception):
            # The name changed with driver 535.
            ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
            self._reasons |= int((ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))

    def _clock(self, kind: int) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetClockInfo(self._handle, kind))
        except Exception:
            return None


def _handle(nvml: Any, device: str) -> Any:
    """NVML counts all devices of the host, torch those that are visible: the device's own name tells which it is."""
    import torch

    properties: Any = torch.cuda.get_device_properties(torch.device(device))
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
    except nvml.NVMLError:
        # A part of a device (MIG) has a name of its own, and its clocks and temperature are those of the whole.
        part = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{properties.uuid}")
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)


class _Cpu:
    """By /proc and /sys, where they are."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._clocks: list[float | None] = [None, None]
        self._times: list[tuple[int, int]] = [(0, 0), (0, 0)]
        self._counts: list[int] = [0, 0]

    def begin(self) -> None:
        self._look(0)

    def end(self) -> None:
        self._look(1)

    def found(self, held: float | None) -> Conditions:
        (stolen, spent), (stolen_after, spent_after) = self._times
        passed = spent_after - spent
        governors = {_read(file) for file in self._cores("cpufreq/scaling_governor")}
        return Conditions(
            mhz=_pair(*self._clocks),
            throttled=("thermal",) if self._counts[1] > self._counts[0] else (),
            governor=", ".join(sorted(governors - {""})),
            load=_load(),
            held=held,
            stolen=round((stolen_after - stolen) / passed, 4) if passed > 0 else None,
        )

    def _look(self, index: int) -> None:
        self._clocks[index] = self._mhz()
        self._times[index] = self._stolen()
        counts = [_read(file) for file in self._cores("thermal_throttle/*_throttle_count")]
        self._counts[index] = sum(int(count) for count in counts if count.isdigit())

    def _mhz(self) -> float | None:
        """Mean of the cores' clocks."""
        khz = [float(text) for file in self._cores("cpufreq/scaling_cur_freq") if (text := _read(file)).isdigit()]
        mhz = [one / 1e3 for one in khz]
        if not mhz:
            mhz = [float(found) for found in re.findall(r"(?m)^cpu MHz\s*: ([\d.]+)", self._proc("cpuinfo"))]
        return round(sum(mhz) / len(mhz), 1) if mhz else None

    def _stolen(self) -> tuple[int, int]:
        """Ticks that other machines took, and all ticks."""
        numbers = [int(word) for word in self._proc("stat").partition("\n")[0].split()[1:9]]
        return (numbers[7], sum(numbers)) if len(numbers) == 8 else (0, 0)

    def _cores(self, below: str) -> Iterator[Path]:
        return (self._root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/{below}")

    def _proc(self, name: str) -> str:
        return _read(self._root / "proc" / name)


def _pair(before: float | None, after: float | None) -> _Pair:
    return None if before is None or after is None else (before, after)


def _load() -> float | None:
    ask: Callable[[], tuple[float, float, float]] | None = getattr(os, "getloadavg", None)
    try:
        return round(ask()[0], 2) if ask is not None else None
    except OSError:
        return None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
