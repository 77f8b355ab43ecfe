"""What capture's cold side costs: a submit as the engine sees it, the way to the disk, records and MiB per second.

    python scripts/bench_writer.py [--folder DIR] [--seconds 5]

The last line is one JSON object. Folder and machine decide the disk's part; the submit's part is ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy

from fib_plugin.capture.writer import RANDOM, Record, Writer
from fib_plugin.schema import AxisConst, AxisVar, Definition, DType, TensorSpec


def paged(name: str) -> Definition:
    """A definition like paged attention's: two index tensors are kept, the others are random."""
    return Definition(
        name=name,
        op_type="bench",
        axes={"batch": AxisVar(), "len_indptr": AxisVar(), "num_indices": AxisVar(), "dim": AxisConst(value=128)},
        inputs={
            "q": TensorSpec(shape=["batch", "dim"], dtype=DType.BFLOAT16),
            "indptr": TensorSpec(shape=["len_indptr"], dtype=DType.INT32),
            "indices": TensorSpec(shape=["num_indices"], dtype=DType.INT32),
            "scale": TensorSpec(shape=None, dtype=DType.FLOAT32),
        },
        outputs={"out": TensorSpec(shape=["batch", "dim"], dtype=DType.BFLOAT16)},
        reference="def run(q, indptr, indices, scale):\n    return q\n",
    )


def record(definition: Definition, number: int, size: int) -> Record:
    """A record of about `size` bytes that differs from every other number's."""
    axes = {"batch": number, "len_indptr": 9, "num_indices": size // 4}
    if size == 0:
        return Record(definition, None, axes, {"scale": 0.5})
    indices = numpy.full(size // 4, number, dtype=numpy.int32)
    indptr = numpy.arange(9, dtype=numpy.int32)
    return Record(definition, None, axes, {"q": RANDOM, "indptr": indptr, "indices": indices, "scale": 0.5})


def submit_us(folder: Path) -> float:
    """Median microseconds of one submit; this thread is busy in between, and the writer's idle, so each wakes it."""
    writer = Writer(folder)
    records = [record(paged("submit"), number, 4096) for number in range(300)]
    times = []
    for entry in records:
        start = time.perf_counter()
        writer.submit(entry)
        end = time.perf_counter()
        times.append(end - start)
        while time.perf_counter() < end + 0.01:
            pass
    writer.close(60)
    return statistics.median(times) * 1e6


def to_disk_ms(folder: Path) -> float:
    """Median milliseconds from submit until the line is on disk, one record at a time."""
    writer = Writer(folder)
    times = []
    for number in range(100):
        entry = record(paged("latency"), number, 4096)
        start = time.perf_counter()
        writer.submit(entry)
        while writer.stats["queued"]:
            time.sleep(0.0001)
        times.append(time.perf_counter() - start)
    writer.close(60)
    return statistics.median(times) * 1e3


def rate(folder: Path, size: int, seconds: float) -> tuple[float, float]:
    """Records and MiB per second that reach the disk while the queue is kept filled."""
    writer = Writer(folder, queue_limit=256)
    definition = paged(f"rate_{size}")
    number = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        if writer.stats["queued"] < 256:
            writer.submit(record(definition, number, size))
            number += 1
        else:
            time.sleep(0.0005)
    if not writer.flush(120):
        raise SystemExit("the disk did not take the records within two minutes")
    elapsed = time.perf_counter() - start
    stats = writer.stats
    writer.close(60)
    return stats["written"] / elapsed, stats["bytes"] / elapsed / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default a temporary folder")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each rate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        result = {"submit_us": round(submit_us(folder / "submit"), 2)}
        print(f"submit                    {result['submit_us']:10.2f} us", flush=True)
        result["to_disk_ms"] = round(to_disk_ms(folder / "latency"), 2)
        print(f"submit to disk (4 KiB)    {result['to_disk_ms']:10.2f} ms", flush=True)
        for key, size in (("shape", 0), ("4k", 4 << 10), ("1m", 1 << 20)):
            records, mib = rate(folder / key, size, arguments.seconds)
            result[f"records_per_s_{key}"] = round(records, 1)
            result[f"mib_per_s_{key}"] = round(mib, 2)
            print(f"records of {key:5}          {records:10.1f} records/s {mib:8.2f} MiB/s", flush=True)
    result["records_per_s"] = result["records_per_s_4k"]
    result["mib_per_s"] = result["mib_per_s_1m"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
