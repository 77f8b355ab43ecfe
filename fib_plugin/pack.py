"""From source folders to Solution JSON: one solution for each definition of the dataset that a kernel can serve.

`fib pack`, agents and tests call `pack`. A source is a folder with a ``solution.toml`` beside its kernel file.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import (
    Binding,
    BuildSpec,
    Definition,
    Language,
    SchemaError,
    Solution,
    SourceFile,
    content_hash,
)
from fib_plugin.schema.errors import from_validation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST = "solution.toml"


class Change(str, Enum):
    """What packing did to the dataset."""

    NEW = "new"
    REPLACED = "replaced"
    SAME = "same"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Requires:
    """What a definition must be like for a kernel to serve it."""

    dtypes: tuple[str, ...] = ()
    min: Mapping[str, float] | None = None
    max: Mapping[str, float] | None = None
    outputs: Mapping[str, Sequence[str]] | None = None

    def refusal(self, definition: Definition, family: str) -> str | None:
        """Why ``definition`` is not served, or None."""
        dtype = str(next(iter(definition.inputs.values())).dtype)
        if self.dtypes and dtype not in self.dtypes:
            return f"dtype {dtype} is not among {', '.join(self.dtypes)}"
        outputs = (self.outputs or {}).get(family)
        if outputs is not None and list(definition.outputs) != list(outputs):
            return f"outputs {', '.join(definition.outputs)} are not {', '.join(outputs)}"
        constants = ops.constants(definition)
        for name, least in (self.min or {}).items():
            if name in constants and constants[name] < least:
                return f"{name} {constants[name]} is below {least}"
        for name, most in (self.max or {}).items():
            if name in constants and constants[name] > most:
                return f"{name} {constants[name]} is above {most}"
        return None


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel as its author keeps it: solution.toml and the files it names.

    Args:
        file: the solution.toml.
        families: the op families it serves; ``{family}`` in the entry point stands for each.
        sources: further files, relative to solution.toml; each is packed under its bare name.
        requires: which definitions of the families it serves.
    """

    file: Path
    name: str
    families: tuple[str, ...]
    language: Language
    entry_point: str
    target_hardware: tuple[str, ...]
    author: str = "fib"
    binding: Binding | None = None
    destination_passing_style: bool = True
    sources: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    description: str | None = None
    requires: Requires = Requires()

    @classmethod
    def read(cls, file: Path) -> Source:
        """The source that ``file``, a solution.toml, describes.

        Raises:
            SchemaError: naming file, field and remedy; further problems of the file are in its ``more``.
        """
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(f"cannot be read: {error}", file=file) from error
        except tomllib.TOMLDecodeError as error:
            raise SchemaError(f"is not TOML: {error}", file=file, remedy="correct the syntax") from error
        problems = list(_problems(content))
        if problems:
            first, *more = (problem.located(file) for problem in problems)
            raise SchemaError(first.problem, file=file, field=first.field, remedy=first.remedy, more=more)
        requires = content.pop("requires", {})
        for key in ("families", "target_hardware", "sources", "dependencies"):
            content[key] = tuple(content.get(key, ()))
        content["language"] = Language(content["language"])
        if "binding" in content:
            content["binding"] = Binding(content["binding"])
        if "dtypes" in requires:
            requires["dtypes"] = tuple(requires["dtypes"])
        return cls(file=file, requires=Requires(**requires), **content)

    def files(self) -> dict[str, str]:
        """Packed path -> text of the entry file and of the further sources.

        Raises:
            SchemaError: a file is missing, or two share a name.
        """
        entry = self.entry_point.split("::")[0]
        texts: dict[str, str] = {}
        for field, path in (("entry_point", entry), *(("sources", source) for source in self.sources)):
            name = entry if field == "entry_point" else PurePosixPath(path).name
            if name in texts:
                raise SchemaError(f"two files are named {name}", file=self.file, field=field, remedy="rename one")
            try:
                texts[name] = (self.file.parent / path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SchemaError(
                    f"the file {path} cannot be read: {error}",
                    file=self.file,
                    field=field,
                    remedy="paths are relative to the folder of solution.toml",
                ) from error
        return texts

    def solution_for(self, definition: Definition, family: str) -> Solution:
        """The Solution for ``definition``: marked constants filled in, ``{family}`` resolved.

        Raises:
            SchemaError: a marked constant that the definition lacks (file and line), or what no Solution may hold.
        """
        constants = ops.constants(definition)
        files = []
        for path, text in self.files().items():
            try:
                filled = ops.fill_constants(text, constants, str(self.file.parent / path))
            except ops.MarkError as error:
                raise SchemaError(
                    f"{error} ({definition.name})", remedy="mark a constant that every definition of the family has"
                ) from error
            files.append(SourceFile(path=path, content=filled))
        try:
            return Solution(
                name=f"{self.name}__{definition.name}",
                definition=definition.name,
                author=self.author,
                spec=BuildSpec(
                    language=self.language,
                    target_hardware=list(self.target_hardware),
                    entry_point=self.entry_point.replace("{family}", family),
                    dependencies=list(self.dependencies),
                    destination_passing_style=self.destination_passing_style,
                    binding=self.binding,
                ),
                sources=files,
                description=self.description,
            )
        except ValidationError as error:
            raise from_validation(error, self.file) from error


def find_sources(paths: Iterable[Path] | None = None) -> list[Source]:
    """The sources below ``paths`` (solution.toml files, or folders that hold some); None: those that are shipped.

    Raises:
        SchemaError: a path without any source, or a source with an error.
    """
    if paths is None:
        from fib_plugin.solutions import ROOT

        paths = [ROOT]
    found: dict[Path, Source] = {}
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob(MANIFEST))
        if not files:
            raise SchemaError(f"holds no {MANIFEST}", file=path, remedy=f"name a folder or a {MANIFEST}")
        found |= {file.resolve(): Source.read(file) for file in files if file.resolve() not in found}
    return list(found.values())


def matches(source: Source, definitions: Mapping[str, Definition]) -> Iterator[tuple[Definition, str, str | None]]:
    """Every definition of the source's families, with its family and the reason why it is not served, if any."""
    for definition in definitions.values():
        spec = ops.family_of(definition)
        if spec is not None and spec.family in source.families:
            yield definition, spec.family, source.requires.refusal(definition, spec.family)


def pack(
    dataset_root: Path,
    sources: Iterable[Path] | None = None,
    on_packed: Callable[[Solution, Change], None] | None = None,
) -> list[Solution]:
    """Write a Solution for each source and each definition of the dataset that it serves, and return them.

    A solution whose content changed replaces the one of that name. What has an error is left out, everything else is
    packed, and the errors are raised at the end.

    Args:
        dataset_root: the dataset to read definitions from and to write solutions to.
        sources: see `find_sources`.
        on_packed: told of each solution as it is packed.

    Raises:
        SchemaError: the first problem; the others are in its ``more``.
    """
    traces = TraceSet.from_path(dataset_root, strict=False)
    packed: list[Solution] = []
    problems: list[SchemaError] = []
    for source in find_sources(sources):
        for definition, family, refusal in matches(source, traces.definitions):
            if refusal is not None:
                continue
            try:
                solution = source.solution_for(definition, family)
                change = _change(traces.get_solution(solution.name), solution)
                traces.add_solution(solution, replace=True)
            except SchemaError as error:
                problems.append(error)
                continue
            packed.append(solution)
            if on_packed is not None:
                on_packed(solution, change)
    if problems:
        first, *more = problems
        raise SchemaError(
            first.problem, file=first.file, line=first.line, field=first.field, remedy=first.remedy, more=more
        )
    return packed


def _change(known: Solution | None, solution: Solution) -> Change:
    if known is None:
        return Change.NEW
    if known.author == solution.author and content_hash(known) == content_hash(solution):
        return Change.SAME
    return Change.REPLACED


#: Key -> (what it must be, how to write it).
_TEXT: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, str) and bool(v), 'a text: "..."')
_LIST: tuple[Callable[[Any], bool], str] = (
    lambda v: isinstance(v, list) and all(isinstance(item, str) and item for item in v),
    'a list of texts: ["..."]',
)
_FULL: tuple[Callable[[Any], bool], str] = (lambda v: _LIST[0](v) and bool(v), 'a list with at least one text: ["..."]')
_BOUNDS: tuple[Callable[[Any], bool], str] = (
    lambda v: isinstance(v, dict) and all(type(bound) in (int, float) for bound in v.values()),
    "a table of numbers: {hidden_size = 8192}",
)
_KEYS = {
    "name": _TEXT,
    "families": _FULL,
    "author": _TEXT,
    "language": (lambda v: v in list(Language), "one of " + ", ".join(Language)),
    "binding": (lambda v: v in list(Binding), "one of " + ", ".join(Binding)),
    "entry_point": (lambda v: isinstance(v, str) and len(list(filter(None, v.split("::")))) == 2, '"file::function"'),
    "sources": _LIST,
    "destination_passing_style": (lambda v: isinstance(v, bool), "true or false"),
    "target_hardware": _FULL,
    "dependencies": _LIST,
    "description": _TEXT,
    "requires": (lambda v: isinstance(v, dict), "a table: [requires]"),
}
_REQUIRED = ("name", "families", "language", "entry_point", "target_hardware")
_REQUIRES_KEYS = {
    "dtypes": _FULL,
    "min": _BOUNDS,
    "max": _BOUNDS,
    "outputs": (
        lambda v: isinstance(v, dict) and all(_FULL[0](names) for names in v.values()),
        'a table of lists: {rmsnorm = ["output"]}',
    ),
}


def _problems(content: dict[str, Any]) -> Iterator[SchemaError]:
    """Everything that is wrong with the content of a solution.toml."""
    for key in _REQUIRED:
        if key not in content:
            yield SchemaError("missing key", field=key, remedy=f"add it: {_KEYS[key][1]}")
    yield from _wrong_values(content, _KEYS, "")
    if isinstance(content.get("requires"), dict):
        yield from _wrong_values(content["requires"], _REQUIRES_KEYS, "requires.")
    if _FULL[0](content.get("families")):
        for family in content["families"]:
            if family not in ops.ALL:
                yield SchemaError(f"unknown family {family!r}", field="families", remedy=_one_of(family, ops.ALL))


def _wrong_values(content: dict[str, Any], known: Mapping[str, Any], prefix: str) -> Iterator[SchemaError]:
    for key, value in content.items():
        if key not in known:
            yield SchemaError("unknown key", field=prefix + key, remedy=_one_of(key, known))
        elif not known[key][0](value):
            yield SchemaError(f"{value!r} cannot be used", field=prefix + key, remedy=f"write {known[key][1]}")


def _one_of(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"use one of: {', '.join(names)}"
