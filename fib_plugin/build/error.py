"""BuildError: why a solution did not become a callable. Raised by every part of `fib_plugin.build`."""

from __future__ import annotations


class BuildError(RuntimeError):
    """What failed and what to do about it; `log` holds what the compiler or the interpreter said."""

    def __init__(self, problem: str, *, log: str = "", remedy: str = "") -> None:
        self.problem = problem
        self.log = log
        self.remedy = remedy
        text = f"{problem} ({remedy})" if remedy else problem
        super().__init__(f"{text}\n{log}" if log else text)
