"""Line: carries `wire` messages as msgpack frames over a socket, with a limit on their size and on every wait.

Never pickle: the child runs untrusted code, and unpickling its words would run that code in the parent.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fib_plugin.bench.wire import Reply, Request

#: A reply carries numbers and logs, never tensors.
_LONGEST = 64 << 20
_HEAD = struct.Struct("<I")


class WireError(Exception):
    """The other side closed the line, or sent what is not a message."""


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


def pending(line: socket.socket) -> bool:
    """Whether something lies unread on the line, which between an answer and the next question nothing should."""
    readable, _, _ = select.select([line], [], [], 0)
    return bool(readable)


def receive_reply(line: socket.socket, deadline: float) -> Reply:
    """The child's next message.

    Raises:
        WireError: the line closed, or what came is no message.
        TimeoutError: it was not there in full at ``deadline`` (time.monotonic).
    """
    return _decode(_replies, _frame(line, deadline))  # type: ignore[no-any-return]


def receive_owed(line: socket.socket, deadline: float, owed: Callable[[], float]) -> Reply:
    """As `receive_reply`, but that the deadline is put off by ``owed`` seconds, which may grow while it is waited for.

    What was read of a message when a deadline passed is lost: the next one is then no message.
    """
    until = deadline
    while True:
        try:
            return receive_reply(line, until)
        except TimeoutError:
            until = deadline + owed()
            if until <= time.monotonic():
                raise


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
