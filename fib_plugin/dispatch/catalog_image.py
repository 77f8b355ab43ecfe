"""Image: all that a catalog knows, in the form in which it is kept on disk. Made from the dataset's files, cold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from fib_plugin import ops
from fib_plugin.dataset.collection import no_collection
from fib_plugin.dataset.measurements import measurements_of
from fib_plugin.dispatch.catalog_files import Files, Seen, in_order, read
from fib_plugin.dispatch.catalog_solutions import read_solution
from fib_plugin.dispatch.evidence import Evidence, Standing, Winner
from fib_plugin.dispatch.reason import Reason
from fib_plugin.schema import Definition, Environment, SchemaError, parse

R = TypeVar("R")


class Image(msgspec.Struct, array_like=True, gc=False):
    """What was read and decided.

    Args:
        files: digest of the files it was made from.
        definitions: their JSON by name.
        structures: digest of a structure -> the definition that stands for it.
        standings, rejected: of the table.
        problems: what could not be read.
    """

    files: bytes = b""
    definitions: dict[str, bytes] = {}
    structures: dict[bytes, str] = {}
    standings: dict[str, Standing] = {}
    rejected: dict[str, Reason] = {}
    problems: list[str] = []


class Rules(msgspec.Struct, frozen=True):
    """What decides besides the files. Without an environment nothing is chosen."""

    environment: Environment | None
    margin: float
    any_hardware: bool

    @property
    def choices(self) -> bool:
        return self.environment is not None


def structure_key(structure: Hashable) -> bytes:
    """A structure (see ops.structure) as it is looked up."""
    return hashlib.blake2b(repr(structure).encode(), digest_size=16).digest()


@no_collection()
def make_image(root: Path, files: Files, rules: Rules) -> Image:
    """Reads the files; what is broken among them becomes a problem and stops nothing."""
    problems: list[str] = []
    raw, definitions = _definitions(files, problems)
    image = Image(files.digest(), raw, problems=problems)
    if rules.environment is not None:
        families = {name: family for name, d in definitions.items() if (family := ops.family_of(d)) is not None}
        winners = _solutions(root, files, problems)
        evidence = Evidence(winners, families, rules.environment, rules.margin, rules.any_hardware)
        found: list[SchemaError] = []
        for seen in in_order(files.measurements):
            for measurement in measurements_of(Path(seen[0]), found):
                evidence.add(measurement)
        problems += map(str, found)
        image.standings, image.rejected = evidence.standings(), evidence.rejected
    image.structures = _structures(definitions, image.standings)
    problems += files.problems
    return image


def _definitions(files: Files, problems: list[str]) -> tuple[dict[str, bytes], dict[str, Definition]]:
    raw: dict[str, bytes] = {}
    definitions: dict[str, Definition] = {}
    homes: dict[str, str] = {}
    for seen in in_order(files.definitions):
        path, data = seen[0], _read(seen, problems)
        definition = None if data is None else _checked(partial(parse, Definition, data, path), path, problems)
        if definition is None or data is None:
            continue
        if definition.name in definitions:
            problems.append(_twice("definition", definition.name, path, homes[definition.name]))
            continue
        raw[definition.name], definitions[definition.name], homes[definition.name] = data, definition, path
    return raw, definitions


def _solutions(root: Path, files: Files, problems: list[str]) -> dict[str, Winner]:
    winners: dict[str, Winner] = {}
    start = len(str(root)) + 1
    for seen in in_order(files.solutions):
        path, data = seen[0], _read(seen, problems)
        if data is None:
            continue
        winner = _checked(partial(read_solution, data, path, path[start:]), path, problems)
        if winner is None:
            continue
        first = winners.setdefault(winner.name, winner)
        if first is not winner:
            problems.append(_twice("solution", winner.name, path, first.file))
    return winners


def _structures(definitions: dict[str, Definition], standings: dict[str, Standing]) -> dict[bytes, str]:
    """Of several definitions of one structure a proven one stands for it, else the first by name."""
    structures: dict[bytes, str] = {}
    for name in sorted(definitions, key=lambda name: (name not in standings or not standings[name].winners, name)):
        try:
            structures.setdefault(structure_key(ops.structure(definitions[name])), name)
        except (SyntaxError, ValueError, TypeError, RecursionError):  # an EPS that is no number, and the like
            continue
    return structures


def _read(seen: Seen, problems: list[str]) -> bytes | None:
    try:
        return read(seen)
    except OSError as error:
        problems.append(f"{seen[0]}: cannot be read: {error.strerror or error} (see its owner and mode)")
        return None


def _checked(read: Callable[[], R], path: str, problems: list[str]) -> R | None:
    try:
        return read()
    except SchemaError as error:
        problems += map(str, error.flat())
    except (RecursionError, MemoryError) as error:  # references too deep for Python's own parser
        problems.append(f"{path}: cannot be read: {error or type(error).__name__} (repair or remove it)")
    return None


def _twice(kind: str, name: str, path: str, first: str) -> str:
    return f"{path}: name: the {kind} {name!r} is already in {first} (rename or remove one of the two)"
