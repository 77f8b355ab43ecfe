"""Builds: compiles solutions ahead of their benchmark, on all cores: while something is timed, cores are for timing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fib_plugin.build import BuildError, precompile
from fib_plugin.schema import Language, Solution, content_hash

_COMPILED = (Language.CPP, Language.CUDA)


class Builds:
    """What was compiled on this host, and what could not be."""

    def __init__(self, cache: Path, cores: int) -> None:
        self._cache = cache
        self._cores = cores
        self._known: dict[str, BuildError | None] = {}

    def failure(self, solution: Solution) -> BuildError | None:
        """Why ``solution`` cannot be built; None where it was built, or needs no compiler."""
        return self._known.get(content_hash(solution))

    def compile(self, solutions: Iterable[Solution], tell: Callable[[str], None] = lambda _: None) -> None:
        """Compile those of ``solutions`` that were not met before.

        What failed in an earlier process is tried again: whoever benchmarks may have mended the toolchain.
        """
        wanted = {content_hash(solution): solution for solution in solutions if solution.spec.language in _COMPILED}
        new = {key: solution for key, solution in wanted.items() if key not in self._known}
        if not new:
            return
        pool = ThreadPoolExecutor(max_workers=self._cores)
        try:
            futures = {key: pool.submit(precompile, one, self._cache, retry=True) for key, one in new.items()}
            for index, (key, future) in enumerate(futures.items()):
                tell(f"compiling {index + 1} of {len(futures)}: {new[key].name}")
                try:
                    future.result()
                    self._known[key] = None
                except BuildError as error:
                    self._known[key] = error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
