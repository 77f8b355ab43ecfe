"""Measurement: one solution timed against the op it would displace, in one run. Kept in fib/measurements.

Traces say how fast a solution is against the reference; only measurements decide what an engine runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout
from fib_plugin.dataset.conditions import Conditions
from fib_plugin.dataset.lines import append_lines, read_lines
from fib_plugin.dataset.reading import files_below
from fib_plugin.schema import SchemaError

BENCH = "bench"
"""Measured by `fib bench`."""
LIVE = "live"
"""Found in probation, inside an engine; with a dash it begins the uuids of workloads that exist only in a trace."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    ratio_high: float | None = None
    """upper end of it; None in lines of before it was kept"""
    hardware: str
    libs: dict[str, str]
    timestamp: str
    source: str = BENCH
    """where it was taken: BENCH or LIVE"""
    evaluation: str = ""
    """hash of the evaluation config that it was judged by"""
    roof_ms: float | None = None
    """what the work takes at the rates that this machine was measured to reach"""
    bound: str = ""
    """what those are: memory or compute"""
    timing: str = ""
    """how the times were taken: graph (replays of CUDA graphs) or plain (calls in a row)"""
    cache: str = ""
    """what calls found in the device's last-level cache: cold (the sets that take turns do not fit) or warm"""
    conditions: Conditions | None = None
    """what the machine was like meanwhile"""
    doubt: str = ""
    """why the ratio proves no win, in words; ``ratio_low`` is 0 then"""
    baseline_setup_ms: float | None = None
    """what the displaced op prepares once a workload (its ``plan``), which is not in ``baseline_ms``"""
    device_ms: float | None = None
    """how long the kernels of a call ran by CUPTI, without the gaps between them; only where it was asked for"""
    launches: float | None = None
    """how many kernels a call launched, likewise"""


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
    found = [] if problems is None else problems
    files = files_below(Path(root) / layout.MEASUREMENTS, ".jsonl", found)
    return [measurement for file in files for measurement in measurements_of(file, found)]


def measurements_of(file: Path, problems: list[SchemaError]) -> list[Measurement]:
    """The measurements of one file, oldest first; what cannot be read goes to `problems`."""
    try:
        content = file.read_bytes()
        try:
            measurements = _decoder.decode_lines(content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return list(_line_by_line(file, problems))
        # Decoding all at once does not mind what stands on one line; a line is a record everywhere else.
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        return measurements if len(measurements) == lines else list(_line_by_line(file, problems))
    except OSError as error:
        problems.append(SchemaError(f"cannot be read: {error}", file=file, remedy="see its owner and mode"))
        return []


def _line_by_line(file: Path, problems: list[SchemaError]) -> Iterator[Measurement]:
    for number, line in read_lines(file):
        try:
            yield read_measurement(line, file, number)
        except SchemaError as error:
            problems.append(error)


def moment(timestamp: str) -> float:
    """A timestamp for ordering; one that cannot be read is older than all others."""
    try:
        time = datetime.fromisoformat(timestamp.strip().replace("Z", "+00:00"))
    except ValueError:
        return -math.inf
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
