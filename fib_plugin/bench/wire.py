"""What parent and child say to each other. `fib_plugin.bench.line` carries it; tensors lie in shared memory."""

from __future__ import annotations

from typing import Literal

import msgspec


class TensorArg(msgspec.Struct, tag="tensor", frozen=True):
    """A tensor at an offset of a blob."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class ScalarArg(msgspec.Struct, tag="scalar", frozen=True):
    """A Python number."""

    value: bool | int | float


class Layout(msgspec.Struct, frozen=True):
    """Arguments of one call as they lie in a blob: the inputs, then room for the outputs."""

    inputs: list[TensorArg | ScalarArg]
    outputs: list[TensorArg]
    size: int


class Attach(msgspec.Struct, tag=True, frozen=True):
    """A blob; its descriptor follows."""

    blob: str
    size: int


class Detach(msgspec.Struct, tag=True, frozen=True):
    """Forget a blob."""

    blob: str


class Load(msgspec.Struct, tag=True, frozen=True):
    """Load what was built in ``folder`` and keep it under ``key``. Solution and definition are JSON; no reference."""

    key: str
    solution: bytes
    definition: bytes
    folder: str


class Run(msgspec.Struct, tag=True, frozen=True):
    """One call, outputs into the blob.

    ``watch`` notes which library ops are called and how many kernels are launched, "ghost" launches none of them.
    """

    key: str
    blob: str
    layout: Layout
    watch: Literal["", "calls", "ghost"] = ""


class Draw(msgspec.Struct, tag=True, frozen=True):
    """Repeated calls on the same inputs; the one output of each call goes to the next row of the blob's output."""

    key: str
    blob: str
    layout: Layout
    calls: int
    least: int
    seconds: float
    limit_s: float


class Prepare(msgspec.Struct, tag=True, frozen=True):
    """Input sets to time on. Replaces those of the workload before."""

    blob: str
    layouts: list[Layout]


class Fresh(msgspec.Struct, frozen=True):
    """A prepared set whose blob has changed: of each input (by its place) those rows; None stands for all of them.

    Rows are those of `fib_plugin.bench.blob.byte_rows`.
    """

    index: int
    rows: dict[int, list[int] | None] | None = None


class Burst(msgspec.Struct, tag=True, frozen=True):
    """``calls`` calls in a row on the prepared sets, from set ``start`` on.

    ``toll``: what the adapter must do around a solution is called, in place of the op. ``replay``: these calls were
    recorded before, and the graph is started once.
    """

    key: str
    start: int
    calls: int
    toll: bool = False
    replay: bool = False


class Record(msgspec.Struct, tag=True, frozen=True):
    """Record the calls of a burst to come into a CUDA graph. None of them runs before that burst."""

    key: str
    start: int
    calls: int
    toll: bool = False


class Keep(msgspec.Struct, tag=True, frozen=True):
    """Write what the last call of the last burst returned into the blob. Asked for after the burst, never before."""

    key: str
    blob: str
    layout: Layout


class Trace(msgspec.Struct, tag=True, frozen=True):
    """One call on each of so many prepared sets, seen by CUPTI. Nothing is timed in this process afterwards."""

    key: str
    calls: int


class Inspect(msgspec.Struct, tag=True, frozen=True):
    """Look for what a solution may have replaced, and for threads that it left."""

    key: str


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Answer: wakes a process up, and measures the line.

    ``fresh``: first take over what has changed in the prepared sets, which no burst's time shall hold.
    """

    fresh: list[Fresh] = []


class Fork(msgspec.Struct, tag=True, frozen=True):
    """To a fork server: start a child. The descriptors of its line and of its output follow."""

    environment: dict[str, str]
    scratch: str
    readable: list[str]
    memory: int
    role: Literal["solution", "referee"] = "solution"


class Poll(msgspec.Struct, tag=True, frozen=True):
    """To a fork server: has that child ended?"""

    pid: int


class Learn(msgspec.Struct, tag=True, frozen=True):
    """To a referee's process: the definition, as JSON, whose reference it runs from now on."""

    definition: bytes


class Refer(msgspec.Struct, tag=True, frozen=True):
    """To a referee's process: run the reference on the blob's inputs, which it may change; outputs go there too."""

    blob: str
    layout: Layout


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Done. ``notes``, in a child's first words: protections that its host lacks."""

    notes: list[str] = []


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The solution (or the displaced op) raised. ``build``: before it could be called; ``denied``: by the sandbox."""

    key: str
    build: bool
    log: str
    denied: bool = False


class Output(msgspec.Struct, frozen=True):
    """What one returned value is. Its data lie in the blob only when shape and type are the expected ones."""

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    device: str = ""


class Ran(msgspec.Struct, tag=True, frozen=True):
    """Outputs of one call, and what was seen beside it."""

    outputs: list[Output]
    seconds: float
    changed_late: bool = False
    library: list[str] = []
    launches: int | None = None
    #: Names of Python code that ran inside of compiled code.
    python: list[str] = []


class Drawn(msgspec.Struct, tag=True, frozen=True):
    """How many rows were drawn, and the form of the last output."""

    calls: int
    outputs: list[Output]


class Recorded(msgspec.Struct, tag=True, frozen=True):
    """The calls lie in a graph. ``why``: they do not, and cannot."""

    why: str = ""


class Sampled(msgspec.Struct, tag=True, frozen=True):
    """Nanoseconds of a whole burst by the child's own clock, or by the device's events.

    ``setup_ns``: what preparing one set took that an engine prepares beforehand (its ``plan``), by the child's clock.
    """

    ns: float
    setup_ns: float = 0.0


class Kept(msgspec.Struct, tag=True, frozen=True):
    """The form of what was written into the blob."""

    outputs: list[Output]


class Traced(msgspec.Struct, tag=True, frozen=True):
    """Of one call: nanoseconds that the device worked, and kernels launched. ``why``: that cannot be told."""

    device_ns: float = 0.0
    launches: float = 0.0
    why: str = ""


class Inspected(msgspec.Struct, tag=True, frozen=True):
    """Names of what is no longer what it was, and how many Python threads run on."""

    patched: list[str]
    threads: int = 0


class Referred(msgspec.Struct, tag=True, frozen=True):
    """The form of what the reference returned, and the seconds it took."""

    outputs: list[Output]
    seconds: float


class Forked(msgspec.Struct, tag=True, frozen=True):
    """The new child."""

    pid: int


class Exited(msgspec.Struct, tag=True, frozen=True):
    """The child's exit code, negative for a signal; None while it runs."""

    code: int | None


Request = (
    Attach
    | Detach
    | Load
    | Run
    | Draw
    | Prepare
    | Record
    | Burst
    | Keep
    | Trace
    | Inspect
    | Ping
    | Fork
    | Poll
    | Learn
    | Refer
)
Reply = Ready | Failed | Ran | Drawn | Recorded | Sampled | Kept | Traced | Inspected | Forked | Exited | Referred
