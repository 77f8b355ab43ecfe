"""Catalog: a dataset as an engine process sees it: definitions by name and by structure, and who runs what.

Opened once per process. Workloads and traces are never read; the rest is read once per host and kept under the cache,
so that the next start only looks whether a file changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from pathlib import Path

from fib_plugin.dispatch.catalog_cache import LOCK_TIMEOUT_S, CacheError, CacheFile
from fib_plugin.dispatch.catalog_files import Files
from fib_plugin.dispatch.catalog_image import Image, Rules, make_image, structure_key
from fib_plugin.dispatch.evidence import Winner
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.table import Choice, Table
from fib_plugin.schema import Definition, Environment, SchemaError, Solution, content_hash, parse

logger = logging.getLogger("fib_plugin")

_TRIES = 3

__all__ = ["Catalog", "CatalogError", "Winner"]


class CatalogError(RuntimeError):
    """A solution's file is no longer what was measured; the message names file, problem and remedy."""


class Catalog:
    """What a dataset holds and what is proven in it; see `open`."""

    def __init__(self, root: Path, image: Image, choices: bool, read_anew: bool, problems: list[str]) -> None:
        self.root = root
        self.problems = problems
        """what could not be read, for the log"""
        self.read_anew = read_anew
        """whether this process read the dataset itself; False when the cache answered"""
        self._raw = image.definitions
        self._structures = image.structures
        self._table = Table(image.standings, image.rejected)
        self._proven = self._table.definitions()
        self._choices = choices
        self._parsed: dict[str, Definition | None] = {}

    @classmethod
    def open(
        cls,
        root: Path,
        cache: Path,
        environment: Environment | None,
        margin: float = 0.03,
        any_hardware: bool = False,
        lock_timeout: float = LOCK_TIMEOUT_S,
    ) -> Catalog:
        """The catalog of the dataset at ``root``. Never fails: what cannot be read is in ``problems``.

        Args:
            cache: where it is kept; one that cannot be written costs time, nothing else.
            environment: of this process; None for definitions without choices.
            margin: by which a solution must beat the displaced op.
            any_hardware: also count measurements from elsewhere.
            lock_timeout: how long to wait, in seconds, for another process that reads the same dataset.

        Example:
            >>> catalog = Catalog.open(root, cache, current_environment())
            >>> catalog.choose("gemm_n4096_k4096", (16, 0)).winner
        """
        root = Path(root).absolute()
        rules = Rules(environment, margin, any_hardware)
        if not root.is_dir():
            problems = [f"{root}: not a folder (name the folder of the dataset)"] if root.exists() else []
            return cls(root, Image(), rules.choices, False, problems)
        started = time.perf_counter()
        image, read_anew, notes = _image(root, CacheFile(Path(cache), root, rules), rules, lock_timeout)
        if read_anew:
            took = (time.perf_counter() - started) * 1e3
            logger.info("dataset %s: %d definitions read anew in %.0f ms", root, len(image.definitions), took)
        return cls(root, image, rules.choices, read_anew, [*image.problems, *notes])

    def __contains__(self, name: object) -> bool:
        """Whether the dataset holds a definition of this name."""
        return name in self._raw

    def names(self) -> list[str]:
        """Of all definitions."""
        return list(self._raw)

    def definition(self, name: str) -> Definition | None:
        """The definition of this name, the same object at every call; None when there is none."""
        if name not in self._parsed:
            raw = self._raw.get(name)
            try:
                found = None if raw is None else parse(Definition, raw)
            except SchemaError as error:
                found = None
                self.problems.append(f"definition {name!r}: {error}")
            return self._parsed.setdefault(name, found)
        return self._parsed[name]

    def match(self, structure: Hashable) -> Definition | None:
        """The definition of this structure (see ops.structure): of several a proven one, then the first by name."""
        name = self._structures.get(structure_key(structure))
        return None if name is None else self.definition(name)

    def choose(self, definition: str, point: tuple[int, int]) -> Choice:
        """Who runs at ``point`` (see OpSpec.point), or why the engine's own op does."""
        if not self._choices:
            return Choice(None, Reason.APPLY_OFF)
        return self._table.choose(definition, point)

    def proven(self) -> list[str]:
        """Definitions with at least one winner: only their ops need to be patched."""
        return self._proven

    def winners(self) -> list[Winner]:
        """All who win anywhere, by name."""
        return self._table.winners()

    def explain(self) -> dict[str, str]:
        """Per measured definition: the sizes won and by whom, or why none."""
        return self._table.explain()

    def solution(self, winner: Winner) -> Solution:
        """The winner with its sources, read now.

        Raises:
            CatalogError: the file is gone, broken, or holds other content than what won.
        """
        file = self.root / winner.file
        try:
            solution = parse(Solution, file.read_bytes(), file)
        except OSError as error:
            raise CatalogError(f"{file}: cannot be read: {error.strerror or error}; restore it") from error
        except SchemaError as error:
            raise CatalogError(str(error)) from error
        if solution.name != winner.name or content_hash(solution) != winner.hash:
            raise CatalogError(f"{file}: holds other content than the {winner.name} that was measured; bench it again")
        return solution


def _image(root: Path, kept: CacheFile, rules: Rules, timeout: float) -> tuple[Image, bool, list[str]]:
    """The image, whether it was made here, and why it could not be kept if so."""
    for _ in range(_TRIES):
        stamp = kept.stamp()
        image = kept.load()
        files = Files.look(root, rules.choices)
        if image is not None and image.files == files.digest():
            return image, False, []
        try:
            lock = kept.lock(timeout)
        except CacheError as error:
            return make_image(root, files, rules), True, [f"the dataset was read by this process alone: {error}"]
        try:
            if kept.stamp() == stamp:
                return _make(root, kept, rules, files)
        finally:
            lock.release()
        # Another process made one while this one waited; look at it without keeping the others waiting.
    return make_image(root, files, rules), True, []


def _make(root: Path, kept: CacheFile, rules: Rules, files: Files) -> tuple[Image, bool, list[str]]:
    settled = files.settled(root, rules.choices)
    image = make_image(root, settled or files, rules)
    if settled is None:
        return image, True, []  # files that change all the time: the next start looks again
    try:
        kept.store(image)
    except CacheError as error:
        return image, True, [f"the dataset is read at every start: {error}"]
    return image, True, []
