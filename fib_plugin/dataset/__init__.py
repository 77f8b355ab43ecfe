"""A FlashInfer Trace dataset on disk: reading, locked and crash-safe writing, merging, checking."""

from fib_plugin.dataset.conditions import Conditions
from fib_plugin.dataset.counts import axes_key, load_counts
from fib_plugin.dataset.environment import compatible, current_environment
from fib_plugin.dataset.lines import append_lines, read_lines
from fib_plugin.dataset.measurements import Measurement, append_measurements, load_measurements
from fib_plugin.dataset.merge_report import MergeReport
from fib_plugin.dataset.merging import merge
from fib_plugin.dataset.summary import DefinitionStats, stats
from fib_plugin.dataset.trace_set import TraceSet
from fib_plugin.dataset.validation import Validation, validate

__all__ = [
    "Conditions",
    "DefinitionStats",
    "Measurement",
    "MergeReport",
    "TraceSet",
    "Validation",
    "append_lines",
    "append_measurements",
    "axes_key",
    "compatible",
    "current_environment",
    "load_counts",
    "load_measurements",
    "merge",
    "read_lines",
    "stats",
    "validate",
]
