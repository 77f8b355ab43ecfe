"""What parent and child say to each other: msgpack frames over a socket, tensors in shared memory.

Never pickle: the child runs untrusted code, and unpickling its words would run that code in the parent.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import msgspec

#: A reply carries numbers and logs, never tensors.
_LONGEST = 64 << 20
_HEAD = struct.Struct("<I")


class WireError(Exception):
    """The other side closed the line, or sent what is not a message."""


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
    """Build a solution and keep it under ``key``. Solution and definition are JSON."""

    key: str
    solution: bytes
    definition: bytes
    cache: str


class Run(msgspec.Struct, tag=True, frozen=True):
    """One call, outputs into the blob."""

    key: str
    blob: str
    layout: Layout


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
    """Copy input sets into memory of the child's own, to be timed on. Replaces those of the workload before."""

    workload: str
    blob: str
    layouts: list[Layout]


class Time(msgspec.Struct, tag=True, frozen=True):
    """Time ``key`` on the prepared sets, interleaved with ``baseline`` if there is one."""

    key: str
    baseline: str | None
    seconds: float


class Again(msgspec.Struct, tag=True, frozen=True):
    """Refill prepared set ``index`` in place from the blob, call as it was timed, outputs into the blob."""

    key: str
    index: int
    blob: str
    layout: Layout


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Done; nothing to say."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The solution (or the displaced op) raised. ``build``: before it could be called."""

    key: str
    build: bool
    log: str


class Output(msgspec.Struct, frozen=True):
    """What one returned value is. Its data lie in the blob only when shape and type are the expected ones."""

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    device: str = ""


class Ran(msgspec.Struct, tag=True, frozen=True):
    """Outputs of one call."""

    outputs: list[Output]
    seconds: float


class Drawn(msgspec.Struct, tag=True, frozen=True):
    """How many rows were drawn, and the form of the last output."""

    calls: int
    outputs: list[Output]


class Timed(msgspec.Struct, tag=True, frozen=True):
    """Nanoseconds a call, one value a sample; the lists are pairs, those of baseline and toll may be empty."""

    solution_ns: list[float]
    baseline_ns: list[float]
    toll_ns: list[float] = []


Request = Attach | Detach | Load | Run | Draw | Prepare | Time | Again
Reply = Ready | Failed | Ran | Drawn | Timed

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)


def send(line: socket.socket, message: Request | Reply) -> None:
    """Send one message.

    Raises:
        WireError: nobody listens.
    """
    data = _encoder.encode(message)
    try:
        line.sendall(_HEAD.pack(len(data)) + data)
    except TimeoutError:
        raise
    except OSError as error:
        raise WireError(str(error)) from error


def receive_reply(line: socket.socket, deadline: float) -> Reply:
    """The child's next message.

    Raises:
        WireError: the line closed, or what came is no message.
        TimeoutError: it was not there in full at ``deadline`` (time.monotonic).
    """
    return _decode(_replies, _frame(line, deadline))  # type: ignore[no-any-return]


def receive_request(line: socket.socket) -> Request:
    """The parent's next message; waits as long as it takes.

    Raises:
        WireError: the parent is gone.
    """
    return _decode(_requests, _frame(line, None))  # type: ignore[no-any-return]


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise WireError(f"not a message: {error}") from error


def _frame(line: socket.socket, deadline: float | None) -> bytes:
    (length,) = _HEAD.unpack(_exactly(line, _HEAD.size, deadline))
    if length > _LONGEST:
        raise WireError(f"a message of {length} bytes")
    return _exactly(line, length, deadline)


def _exactly(line: socket.socket, count: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        if deadline is None:
            line.settimeout(None)
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            line.settimeout(left)
        try:
            part = line.recv(min(count - len(parts), 1 << 20))
        except TimeoutError:
            raise
        except OSError as error:
            raise WireError(str(error)) from error
        if not part:
            raise WireError("the line closed")
        parts += part
    return bytes(parts)
