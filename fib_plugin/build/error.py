"""BuildError: why a solution did not become a callable. Raised by every part of `fib_plugin.build`."""

from __future__ import annotations


class BuildError(RuntimeError):
    """What failed and what to do about it; `log` holds what the compiler or the interpreter said.

    `lasting`: the same sources would fail again under the same toolchain, so the build cache keeps the failure.
    """

    def __init__(self, problem: str, *, log: str = "", remedy: str = "", lasting: bool = False) -> None:
        self.problem = problem
        self.log = log
        self.remedy = remedy
        self.lasting = lasting
        text = f"{problem} ({remedy})" if remedy else problem
        super().__init__(f"{text}\n{log}" if log else text)

    def of(self, solution: str) -> BuildError:
        """The same failure as that of a named solution."""
        return BuildError(f"{solution}: {self.problem}", log=self.log, remedy=self.remedy, lasting=self.lasting)
