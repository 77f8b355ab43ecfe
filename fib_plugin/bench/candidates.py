"""Candidates: solutions under work, read from where their author keeps them and not from the dataset.

A folder with a solution.toml stands for one solution for each captured definition that it serves; a JSON file for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fib_plugin import pack
from fib_plugin.bench.selection import BenchError
from fib_plugin.schema import Definition, SchemaError, Solution
from fib_plugin.schema.record import parse

_SUFFIX = ".json"


@dataclass(slots=True)
class Candidates:
    """What was found: solutions, and why some definition of their families is not served."""

    solutions: list[Solution] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def read_candidates(paths: Iterable[Path], definitions: Mapping[str, Definition]) -> Candidates:
    """The solutions that ``paths`` hold for ``definitions``.

    Args:
        paths: folders with a solution.toml in them or below, solution.toml files, or Solution JSON files.
        definitions: of the dataset, by name.

    Raises:
        SchemaError: a file that cannot be read, or that is no solution; it names file, field and remedy.
        BenchError: there is nothing at a path, or nothing that fits a definition.
    """
    found = Candidates()
    for path in paths:
        if not path.exists():
            raise BenchError(f"{path} is not there (name a folder with a {pack.MANIFEST}, or a Solution JSON file)")
        before = len(found.solutions)
        refused = len(found.refusals)
        if path.suffix == _SUFFIX:
            _json(path, definitions, found)
        else:
            _sources(path, definitions, found)
        if len(found.solutions) == before:
            raise BenchError(_nothing(path, definitions, found.refusals[refused:]))
    return found


def _json(file: Path, definitions: Mapping[str, Definition], found: Candidates) -> None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SchemaError(f"cannot be read: {error}", file=file) from error
    solution = parse(Solution, content, file)
    if solution.definition in definitions:
        found.solutions.append(solution)
    else:
        found.refusals.append(f"{solution.name} is for {solution.definition}, which the dataset does not have")


def _sources(path: Path, definitions: Mapping[str, Definition], found: Candidates) -> None:
    for source in pack.find_sources([path]):
        for definition, family, refusal in pack.matches(source, definitions):
            if refusal is None:
                found.solutions.append(source.solution_for(definition, family))
            else:
                found.refusals.append(f"{source.name} does not serve {definition.name}: {refusal}")


def _nothing(path: Path, definitions: Mapping[str, Definition], refusals: list[str]) -> str:
    if refusals:
        return f"{path} fits no definition of the dataset: {'; '.join(refusals[:4])}"
    families = sorted({family for source in pack.find_sources([path]) for family in source.families})
    known = ", ".join(sorted(definitions)[:6]) or "none at all"
    return (
        f"{path} is for {', '.join(families)}; the dataset has no definition of that family, but {known} "
        "(capture some with FIB_ENABLE_TRACING=1, or name another --dataset)"
    )
