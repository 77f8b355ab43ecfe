"""What a profiler runs: one solution on one workload, warmed up, with a few calls marked for it. Made for `profile`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WARM_UP = 5
_CALLS = 3


def main(order: dict[str, Any]) -> None:
    """``order``: root, definition, solution and workload as JSON, device, threads, cache; `table` for torch's own."""
    import torch

    from fib_plugin.bench.inputs import InputMaker, fresh_seed
    from fib_plugin.build import build
    from fib_plugin.schema import Definition, Solution, Workload
    from fib_plugin.schema.record import parse

    definition = parse(Definition, order["definition"])
    solution, workload = parse(Solution, order["solution"]), parse(Workload, order["workload"])
    root = None if order["root"] is None else Path(order["root"])
    torch.set_num_threads(order["threads"])
    values = InputMaker(root, fresh_seed()).make(definition, workload, fresh_seed())
    inputs = [value.to(order["device"]) if isinstance(value, torch.Tensor) else value for value in values]
    runnable = build(solution, definition, Path(order["cache"]))
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            runnable.call(*inputs)
        if order["table"]:
            _table(runnable.call, inputs)
            return
        with _marked():
            for _ in range(_CALLS):
                runnable.call(*inputs)


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    """ncu, told to begin switched off, profiles what runs in here."""
    import torch

    cuda: Any = torch.cuda
    cudart = cuda.cudart()
    cuda.synchronize()
    cudart.cudaProfilerStart()
    yield
    cuda.synchronize()
    cudart.cudaProfilerStop()


def _table(call: Any, inputs: list[Any]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(_CALLS):
            call(*inputs)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    main(json.loads(sys.stdin.read()))
