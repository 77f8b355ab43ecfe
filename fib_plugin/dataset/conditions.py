"""Conditions: what the machine was like while times were taken. Part of a measurement."""

from __future__ import annotations

import msgspec


class Conditions(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """None and empty stand for what this machine does not tell. Pairs are from before and after the timing."""

    mhz: tuple[float, float] | None = None
    """clock of a GPU's multiprocessors, or of the CPU (mean of its cores)"""
    memory_mhz: tuple[float, float] | None = None
    """clock of a GPU's memory"""
    temperature_c: float | None = None
    """the highest that was seen"""
    power_w: float | None = None
    """the highest that was seen"""
    throttled: tuple[str, ...] = ()
    """why the device ran below the clock it was asked for, such as ``hw_thermal``; any of them rules out a win"""
    governor: str = ""
    """of the CPU's clock, such as ``performance``"""
    load: float | None = None
    """processes that ran or wanted to, in the mean over the last minute"""
    held: float | None = None
    """share of the bursts' time for which the sides' threads had no core"""
    stolen: float | None = None
    """share of all cores' time that other machines of the same host took"""


NOTHING_KNOWN = Conditions()
