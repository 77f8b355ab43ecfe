"""What the capture tests share: a definition, records of it, and the check that a dataset folder is whole."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file

import fib_plugin
from fib_plugin.capture.writer import RANDOM, Record, Writer
from fib_plugin.schema import AxisConst, AxisVar, Definition, TensorSpec

MakeWriter = Callable[..., Writer]
REPOSITORY = Path(fib_plugin.__file__).parents[1]


def gather(rows: int = 8, name: str | None = None) -> Definition:
    """A small definition with a structural input, a plain one and a scalar."""
    return Definition(
        name=name or f"gather_r{rows}",
        op_type="gather",
        axes={"n": AxisVar(), "rows": AxisConst(value=rows)},
        inputs={
            "table": TensorSpec(shape=["rows"], dtype="float32"),
            "index": TensorSpec(shape=["n"], dtype="int32"),
            "scale": TensorSpec(shape=None, dtype="float32"),
        },
        outputs={"out": TensorSpec(shape=["n"], dtype="float32")},
        reference="def run(table, index, scale):\n    return table[index.long()] * scale\n",
    )


def record(number: int, definition: Definition | None = None, **changes: Any) -> Record:
    """The `number`-th of a series of records that all differ."""
    inputs = {"scale": 0.5, "index": numpy.full(4, number, dtype=numpy.int32), "table": RANDOM}
    return Record(definition or gather(), None, {"n": 4}, {**inputs, **changes})


def lines(root: Path) -> list[dict[str, Any]]:
    """Every finished workload line; fails on one that cannot be read. After the last newline nothing was finished."""
    found = []
    for file in sorted((root / "workloads").rglob("*.jsonl")):
        *whole, _torn = file.read_bytes().split(b"\n")
        found.extend(json.loads(line) for line in whole)
    return found


def numbers(root: Path) -> list[int]:
    """Which of the series are on disk, read from the blobs that the lines name; fails if one is missing or broken."""
    found = []
    for line in lines(root):
        index = line["workload"]["inputs"]["index"]
        blob = load_file(root / index["path"])[index["tensor_key"]]
        assert blob.shape == (4,)
        found.append(int(blob[0]))
    return found


def script(source: str, *arguments: object, prefix: Sequence[str] = (), **options: Any) -> subprocess.Popen[bytes]:
    """Run a test's own script in a process with the package and this file at hand; ``prefix`` starts it, if given."""
    paths = [str(REPOSITORY), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [*prefix, sys.executable, "-c", source, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, env=env, **options)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def warnings_of(caplog: pytest.LogCaptureFixture, reason: str) -> list[str]:
    messages = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    return [message for message in messages if f": {reason}: " in message]
