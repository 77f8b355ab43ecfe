"""Drain: reads what a child prints for as long as it prints, and keeps the ends of it."""

from __future__ import annotations

import os
import threading

_HEAD_BYTES = 2000
_TAIL_BYTES = 4000


class Drain:
    """The reading end of a child's output. The child never blocks on it and never fills memory or a disk."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._closed = False
        self._head, self._tail, self._total = bytearray(), bytearray(), 0
        threading.Thread(target=self._follow, name="fib-bench-output", daemon=True).start()

    def mark(self) -> None:
        """Forget what was printed until now."""
        with self._lock:
            self._pull()
            self._head, self._tail, self._total = bytearray(), bytearray(), 0

    def text(self) -> str:
        """What was printed since `mark`; of much output the beginning and the end."""
        with self._lock:
            self._pull()
            left_out = self._total - len(self._head) - len(self._tail)
            middle = f"\n... {left_out} bytes of output left out ...\n".encode() if left_out else b""
            return bytes(self._head + middle + self._tail).decode(errors="replace").strip()

    def close(self) -> None:
        """Read what is there and let go."""
        with self._lock:
            if not self._closed:
                self._pull()
                self._closed = True
                os.close(self._descriptor)

    def _follow(self) -> None:
        import select

        while True:
            poll = select.poll()
            with self._lock:
                if self._closed:
                    return
                poll.register(self._descriptor, select.POLLIN)
            events = poll.poll(200)
            with self._lock:
                if self._closed or (events and not self._pull()):
                    return

    def _pull(self) -> bool:
        """Take what is there, at most a few MB at a time; False at the end of the output."""
        if self._closed:
            return False
        for _ in range(64):
            try:
                part = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not part:
                return False
            self._total += len(part)
            room = _HEAD_BYTES - len(self._head)
            if room > 0:
                self._head += part[:room]
                part = part[room:]
            self._tail = (self._tail + part)[-_TAIL_BYTES:]
        return True
