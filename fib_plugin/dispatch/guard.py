"""The breaker: a solution that fails in the engine answers no further call of this process."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterable
from typing import Any

from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Site

logger = logging.getLogger("fib_plugin")


class Guard:
    """Owns which solutions are out, and why.

    Args:
        sites: every site of the process; a solution is out for all of them.
        strict: a failure is raised instead.
    """

    def __init__(self, sites: Iterable[Site], strict: bool = False) -> None:
        self._sites = sites
        self._lock = threading.Lock()
        self.strict = strict
        self.out: dict[str, dict[str, Any]] = {}

    def forked(self) -> None:
        """In a forked child: nobody holds the lock here, whoever held it in the parent."""
        self._lock = threading.Lock()

    def broke(self, site: Site, entry: Entry, error: Exception) -> None:
        """The solution of ``entry`` raised: it is out for the process; the caller runs the original.

        Raises:
            Exception: the solution's own error, when strict.
        """
        if self.strict:
            raise error
        name = entry.solution or "?"
        with self._lock:
            if name not in self.out:
                self.quarantine(name, site.definition.name, Reason.SOLUTION_RAISED, repr(error))
                trace = "".join(traceback.format_exception(error))
                logger.warning("solution %s raised and is out; the engine's op answers.\n%s", name, trace)
            for other in list(self._sites):
                _retire(other, name)
            # Several threads may have been inside the solution: each of their calls moves to what answers it.
            entry.calls -= 1
            if entry.heir is not None:
                entry.heir.calls += 1

    def quarantine(self, solution: str, definition: str, reason: Reason, detail: str, digest: str = "") -> None:
        """Puts ``solution`` out. Its record is shown by ``fib status``."""
        self.out[solution] = {
            "solution": solution,
            "definition": definition,
            "reason": reason.value,
            "detail": detail,
            "hash": digest,
        }


def _retire(site: Site, solution: str) -> None:
    for key, entry in list(site.entries.items()):
        if entry.solution == solution and entry.run is not None:
            entry.heir = Entry(entry.axes, None, None, Reason.SOLUTION_RAISED.value)
            site.retired.append(entry)
            site.entries[key] = entry.heir
