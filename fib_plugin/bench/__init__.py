"""Benchmarks solutions on captured workloads: the parent makes inputs and judges, a child runs what is judged."""

from __future__ import annotations

from fib_plugin.bench.results import BenchResult
from fib_plugin.bench.runner import Progress, run_bench
from fib_plugin.bench.selection import BenchError

__all__ = ["BenchError", "BenchResult", "Progress", "run_bench"]
