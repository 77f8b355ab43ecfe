"""The child: builds and runs what the parent names, and returns raw outputs and raw times. It judges nothing.

Started by `fib_plugin.bench.child`. It never holds a reference, its outputs, a tolerance or a seed.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fib_plugin.bench import kernels, serving, watching, wire
from fib_plugin.bench.blob import Blob, spoil, take_over
from fib_plugin.bench.burst import burst, burst_cuda
from fib_plugin.bench.integrity import snapshot
from fib_plugin.bench.outputs import as_bytes, describe, fits, store
from fib_plugin.bench.recorder import Recorder
from fib_plugin.build import Runnable, load
from fib_plugin.schema import Definition, Language, Solution, parse

#: How long a call's output is watched for changes after it was returned.
_LATE_S = 0.002


class Worker:
    """State of one child: solutions built, blobs attached, input sets to time on. ``answers`` is what it can do."""

    __slots__ = ("_blobs", "_changed", "_device", "_last", "_line", "_prepared", "_recorder", "_runnables", "_sets",
                 "_setup_ns", "_shared", "_threads", "answers")  # fmt: skip

    def __init__(self, line: socket.socket, device: str, threads: int, changed: Callable[[], list[str]]) -> None:
        self._line = line
        self._device = device
        self._threads = threads
        self._changed = changed
        self._runnables: dict[str, Runnable] = {}
        self._blobs: dict[str, Blob] = {}
        self._sets: list[list[Any]] = []
        self._shared: list[list[Any]] = []
        self._prepared: dict[tuple[str, bool], tuple[Callable[..., Any], Sequence[Sequence[Any]]]] = {}
        self._setup_ns: dict[tuple[str, bool], float] = {}
        self._last: Any = None
        self._recorder = Recorder()
        self.answers: serving.Answers = {
            wire.Ping: self._ping,
            wire.Attach: self._attach,
            wire.Detach: self._detach,
            wire.Load: self._load,
            wire.Run: self._run,
            wire.Draw: self._draw,
            wire.Prepare: self._prepare,
            wire.Record: self._record,
            wire.Burst: self._burst,
            wire.Keep: self._keep,
            wire.Trace: self._trace,
            wire.Inspect: self._inspect,
        }

    def _ping(self, request: wire.Ping) -> wire.Reply:
        if request.fresh and self._device != "cpu":
            for fresh in request.fresh:
                take_over(self._sets[fresh.index], self._shared[fresh.index], fresh)
            watching.synchronize(self._device)
        return wire.Ready()

    def _attach(self, request: wire.Attach) -> wire.Reply:
        _, descriptors, _, _ = socket.recv_fds(self._line, 1, 1)
        self._blobs[request.blob] = Blob(request.size, descriptors[0])
        return wire.Ready()

    def _detach(self, request: wire.Detach) -> wire.Reply:
        self._blobs.pop(request.blob).close()
        return wire.Ready()

    def _load(self, request: wire.Load) -> wire.Reply:
        if request.key not in self._runnables:
            solution, definition = parse(Solution, request.solution), parse(Definition, request.definition)
            self._runnables[request.key] = load(solution, definition, Path(request.folder))
            torch.set_num_threads(self._threads)  # an engine's import may have changed it
        return wire.Ready()

    def _run(self, request: wire.Run) -> wire.Reply:
        blob, layout, runnable = self._blobs[request.blob], request.layout, self._runnables[request.key]
        shared = blob.arguments(layout.inputs)
        inputs = self._here(shared)
        seen = watching.Seen()
        start = time.perf_counter()
        if request.watch:
            native = runnable.solution.spec.language in (Language.CPP, Language.CUDA)
            with watching.watching(request.watch == "ghost", native) as seen:
                outputs, live = self._call(runnable, inputs, blob, layout)
        else:
            outputs, live = self._call(runnable, inputs, blob, layout)
        seconds = time.perf_counter() - start
        late = self._changes_late(live, blob, layout)
        self._bring_back(shared, inputs)
        return wire.Ran(outputs, seconds, late, seen.library, seen.launches, seen.python)

    def _changes_late(self, live: Sequence[Any], blob: Blob, layout: wire.Layout) -> bool:
        """Whether outputs change after they were returned: work that goes on elsewhere."""
        time.sleep(_LATE_S)
        watching.synchronize(self._device)
        for value, place in zip(live, layout.outputs, strict=False):
            if fits(describe(value), place):
                kept = blob.tensor(place)
                if kept.numel() and not torch.equal(as_bytes(value.to("cpu")), as_bytes(kept)):
                    return True
        return False

    def _draw(self, request: wire.Draw) -> wire.Reply:
        blob, layout = self._blobs[request.blob], request.layout
        inputs = self._here(blob.arguments(layout.inputs))
        (place,) = layout.outputs
        rows = blob.tensor(place)
        row = wire.Layout([], [wire.TensorArg(place.dtype, place.shape[1:], place.offset)], 0)
        runnable = self._runnables[request.key]
        start, calls = time.perf_counter(), 0
        outputs: list[wire.Output] = []
        while calls < request.calls:
            spent = time.perf_counter() - start
            if (spent > request.seconds and calls >= request.least) or spent > request.limit_s:
                break
            outputs, _ = self._call(runnable, inputs, blob, row)
            if calls:
                rows[calls].copy_(rows[0])
            else:
                first = rows[0].clone()
            calls += 1
        if calls:
            rows[0].copy_(first)
        return wire.Drawn(calls, outputs)

    def _prepare(self, request: wire.Prepare) -> wire.Reply:
        self._sets, self._shared, self._prepared, self._last = [], [], {}, None  # free the old ones first
        self._recorder = Recorder()
        if not request.layouts:
            return wire.Ready()
        blob = self._blobs[request.blob]
        self._shared = [blob.arguments(layout.inputs) for layout in request.layouts]
        self._sets = [self._here(shared) for shared in self._shared]
        return wire.Ready()

    def _record(self, request: wire.Record) -> wire.Reply:
        self._last = None
        call, sets = self._contestant(request.key, request.toll)
        chosen = [(request.start + step) % len(sets) for step in range(request.calls)]
        return wire.Recorded(self._recorder.record(call if call is not _nothing else None, sets, chosen))

    def _burst(self, request: wire.Burst) -> wire.Reply:
        self._last = None
        if request.replay:
            took, self._last = self._recorder.replay()
            return wire.Sampled(took)
        call, sets = self._contestant(request.key, request.toll)
        took, self._last = (burst if self._device == "cpu" else burst_cuda)(call, sets, request.start, request.calls)
        return wire.Sampled(took, self._setup_ns.get((request.key, request.toll), 0.0))

    def _contestant(self, key: str, toll: bool) -> tuple[Callable[..., Any], Sequence[Sequence[Any]]]:
        """What is called, and on what: an engine prepares beforehand what it need not do in a call."""
        found = self._prepared.get((key, toll))
        if found is None:
            runnable = self._runnables[key]
            make = runnable.toll if toll else runnable.setup
            if make is None and toll:
                found = _nothing, self._sets
            elif make is None:
                found = runnable.call, self._sets
            else:
                found = _ready, self._made(make, (key, toll))
            self._prepared[key, toll] = found
        return found

    def _made(self, make: Callable[..., Any], key: tuple[str, bool]) -> list[list[Any]]:
        """Each set prepared, and on record what that took in the median: the first one may compile."""
        made, took = [], []
        for arguments in self._sets:
            start = time.perf_counter_ns()
            made.append([make(*arguments)])
            watching.synchronize(self._device)
            took.append(time.perf_counter_ns() - start)
        self._setup_ns[key] = statistics.median(took)
        return made

    def _keep(self, request: wire.Keep) -> wire.Reply:
        watching.synchronize(self._device)
        return wire.Kept(self._store(self._last, self._blobs[request.blob], request.layout)[0])

    def _trace(self, request: wire.Trace) -> wire.Reply:
        call, sets = self._contestant(request.key, toll=False)
        found = kernels.trace(call, [sets[step % len(sets)] for step in range(request.calls)])
        return wire.Traced(found.device_ns, found.launches, found.why)

    def _inspect(self, request: wire.Inspect) -> wire.Reply:
        return wire.Inspected(self._changed(), watching.threads_left())

    def _here(self, shared: Sequence[Any]) -> list[Any]:
        if self._device == "cpu":
            return list(shared)
        return [value.to(self._device) if isinstance(value, torch.Tensor) else value for value in shared]

    def _bring_back(self, shared: Sequence[Any], inputs: Sequence[Any]) -> None:
        """The parent looks for changed inputs; on a CPU the solution worked on the shared memory itself."""
        if self._device != "cpu":
            for target, value in zip(shared, inputs, strict=True):
                if isinstance(target, torch.Tensor):
                    target.copy_(value)

    def _call(
        self, runnable: Runnable, inputs: list[Any], blob: Blob, layout: wire.Layout
    ) -> tuple[list[wire.Output], Sequence[Any]]:
        if not runnable.solution.spec.destination_passing_style:
            return self._store(runnable.call(*inputs), blob, layout)
        places = [blob.tensor(place) for place in layout.outputs]
        for place in places:
            spoil(place)
        outputs = self._here(places)
        runnable.into(*inputs, *outputs)
        self._bring_back(places, outputs)
        # Given outputs lie in the blob itself: what is watched for late changes is a copy of how they are now.
        if self._device == "cpu":
            outputs = [output.clone() for output in outputs]
        return [describe(output) for output in outputs], outputs

    def _store(self, result: Any, blob: Blob, layout: wire.Layout) -> tuple[list[wire.Output], Sequence[Any]]:
        values = result if type(result) is tuple else (result,)
        return store(values, blob, layout), values


def _nothing(*arguments: Any) -> None:
    """The toll of an adapter that asks for none."""


def _ready(call: Callable[[], Any]) -> Any:
    return call()


def main(descriptor: int, device: str, threads: int, notes: list[str] | None = None) -> None:
    """Serve on an inherited socket until it closes."""

    def make(line: socket.socket) -> serving.Answers:
        return Worker(line, device, threads, snapshot()).answers

    serving.run(make, descriptor, threads, notes)
