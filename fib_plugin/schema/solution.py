"""Solution: source code that computes a definition, with all that is needed to build and call it."""

from __future__ import annotations

import hashlib
import json
from enum import Enum

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from fib_plugin.schema.errors import rule
from fib_plugin.schema.record import Name, Record, leaves_folder

#: Author of the solutions that hold an engine's own op.
ENGINE_AUTHOR = "engine"


class Language(str, Enum):
    """What the entry file is written in. All are read; which can be built is the builder's business."""

    PYTHON = "python"
    TRITON = "triton"
    CPP = "cpp"
    CUDA = "cuda"
    TILELANG = "tilelang"

    __str__ = str.__str__


class Binding(str, Enum):
    """How compiled code meets Python."""

    TVM_FFI = "tvm-ffi"
    TORCH = "torch"

    __str__ = str.__str__


class SourceFile(Record):
    """One file of the solution, at a path relative to the build folder."""

    path: Name
    content: Name

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        why = leaves_folder(path)
        if why:
            raise rule(f"{why}: {path}", remedy="use a path relative to the solution's own folder")
        return path


class BuildSpec(Record):
    """Language, entry point and calling convention."""

    language: Language
    target_hardware: list[str] = Field(min_length=1)
    entry_point: Name
    dependencies: list[Name] = Field(default_factory=list)
    destination_passing_style: bool = True
    binding: Binding | None = None

    @property
    def entry_file(self) -> str:
        return self.entry_point.split("::")[0]

    @property
    def entry_symbol(self) -> str:
        return self.entry_point.split("::")[1]

    @field_validator("entry_point")
    @classmethod
    def _two_parts(cls, entry_point: str) -> str:
        parts = entry_point.split("::")
        if len(parts) != 2 or not all(parts):
            raise rule(f"the entry point {entry_point!r} has not the form file::function", remedy="e.g. kernel.py::run")
        return entry_point


class Solution(Record):
    """A named implementation of one definition."""

    name: Name
    definition: Name
    author: Name
    spec: BuildSpec
    sources: list[SourceFile] = Field(min_length=1)
    description: str | None = None

    @property
    def entry_source(self) -> SourceFile:
        """The file that holds the entry point."""
        return next(source for source in self.sources if source.path == self.spec.entry_file)

    @model_validator(mode="after")
    def _check(self) -> Self:
        paths = [source.path for source in self.sources]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise rule(f"several sources have the path {twice[0]!r}", field="sources", remedy="keep one of them")
        if self.spec.entry_file not in paths:
            raise rule(
                f"the entry file {self.spec.entry_file!r} is not among the sources",
                field="spec.entry_point",
                remedy=f"name one of: {', '.join(paths)}",
            )
        return self


def content_hash(solution: Solution) -> str:
    """sha256 over what decides the solution's behaviour: definition, spec and sources.

    Name, author and description are left out, as are the order of the sources and whether a default was spelled out.
    """
    content = {
        "definition": solution.definition,
        "spec": solution.spec.model_dump(mode="json"),
        "sources": sorted((source.path, source.content) for source in solution.sources),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
