"""Measurement: one solution timed against the op it would displace, in one run. Kept in fib/measurements.

Traces say how fast a solution is against the reference; only measurements decide what an engine runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout
from fib_plugin.dataset.lines import append_lines, read_lines
from fib_plugin.schema import SchemaError


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Times are medians in ms; None where a failed status left nothing to time."""

    run: str
    definition: str
    axes: dict[str, int]
    workload: str
    """uuid of the workload"""
    solution: str
    solution_hash: str
    baseline: str | None = None
    """name of the solution that holds the displaced op"""
    baseline_hash: str | None = None
    status: str
    solution_ms: float | None = None
    baseline_ms: float | None = None
    ratio: float | None = None
    """baseline / (solution + what the adapter must do around a solution), from interleaved pairs"""
    ratio_low: float | None = None
    """lower end of the ratio's 95% interval"""
    hardware: str
    libs: dict[str, str]
    timestamp: str


_decoder = msgspec.json.Decoder(Measurement)
_encoder = msgspec.json.Encoder()


def append_measurements(root: Path, op_type: str, measurements: Iterable[Measurement]) -> None:
    """Append to fib/measurements/<op_type>/<definition>.jsonl, as results arrive and from several processes at once."""
    lines: dict[str, list[bytes]] = defaultdict(list)
    for measurement in measurements:
        lines[measurement.definition].append(_encoder.encode(measurement))
    for definition, batch in lines.items():
        append_lines(layout.measurements_file(Path(root), op_type, definition), batch)


def read_measurement(line: bytes, file: Path, number: int) -> Measurement:
    """One line; SchemaError when it holds no measurement."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"unreadable measurement: {error}", file=file, line=number, remedy="remove the line"
        ) from error


def load_measurements(root: Path, problems: list[SchemaError] | None = None) -> list[Measurement]:
    """All measurements, files sorted by name, oldest line first. Unreadable lines go to `problems` and stop nothing."""
    loaded: list[Measurement] = []
    found = [] if problems is None else problems
    for file in sorted((Path(root) / layout.MEASUREMENTS).rglob("*.jsonl")):
        try:
            for number, line in read_lines(file):
                try:
                    loaded.append(read_measurement(line, file, number))
                except SchemaError as error:
                    found.append(error)
        except OSError as error:
            found.append(SchemaError(f"cannot be read: {error}", file=file, remedy="see its owner and mode"))
    return loaded
