"""The breaker: a solution that fails in the engine answers no further call of this process."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.site import Entry, Site

logger = logging.getLogger("fib_plugin")


class Guard:
    """Owns which solutions are out, and why."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.out: dict[str, dict[str, Any]] = {}

    def broke(self, site: Site, entry: Entry, error: Exception) -> None:
        """The solution of ``entry`` raised: it is out for the process; the caller runs the original.

        Raises:
            Exception: the solution's own error, when strict.
        """
        if self.strict:
            raise error
        name = entry.solution or "?"
        if name not in self.out:
            self.quarantine(name, site.definition.name, Reason.SOLUTION_RAISED, repr(error))
            trace = "".join(traceback.format_exception(error))
            logger.warning("solution %s raised and is out; the engine's op answers.\n%s", name, trace)
        entry.calls -= 1
        for key, other in list(site.entries.items()):
            if other.solution == name and other.run is not None:
                site.retired.append(other)
                site.entries[key] = fresh = Entry(other.axes, None, None, Reason.SOLUTION_RAISED.value)
                if other is entry:
                    fresh.calls = 1

    def quarantine(self, solution: str, definition: str, reason: Reason, detail: str, digest: str = "") -> None:
        """Puts ``solution`` out. Its record is shown by ``fib status``."""
        self.out[solution] = {
            "solution": solution,
            "definition": definition,
            "reason": reason.value,
            "detail": detail,
            "hash": digest,
        }
