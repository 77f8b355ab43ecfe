"""Checks a whole dataset: every record by itself, and every name, axis and blob that one record takes from another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.blobs import Stored, blobs_of, mismatch, read_header
from fib_plugin.dataset.counts import load_counts
from fib_plugin.dataset.evaluation import check_overrides
from fib_plugin.dataset.measurements import load_measurements
from fib_plugin.dataset.trace_set import duplicate
from fib_plugin.schema import Definition, RandomInput, ScalarInput, SchemaError, Solution, Trace


@dataclass(slots=True)
class Validation:
    """What was looked at, by kind, and what is wrong."""

    checked: Counter[str] = field(default_factory=Counter)
    problems: list[SchemaError] = field(default_factory=list)

    def add(self, error: SchemaError) -> None:
        self.problems.extend(error.flat())


def validate(root: Path) -> Validation:
    """Check the dataset below `root`; it is only read."""
    result = Validation()
    if not root.is_dir():
        result.add(SchemaError("no such folder", file=root, remedy="create it with `fib dataset init`"))
        return result
    definitions = _definitions(root, result)
    solutions = _solutions(root, definitions, result)
    blobs = _Blobs(root)
    uuids: dict[tuple[str, str], reading.Found[Trace]] = {}
    for found in reading.workloads(root):
        result.checked["workloads"] += 1
        if found.error is not None or found.record is None:
            _report(found, result)
            continue
        first = uuids.setdefault((found.record.definition, found.record.workload.uuid), found)
        if first is not found:
            result.add(_at(found, _uuid_twice(first)))
        for error in _workload_errors(found.record, definitions, blobs):
            result.add(_at(found, error))
    for found in reading.traces(root):
        result.checked["traces"] += 1
        if found.error is not None or found.record is None:
            _report(found, result)
            continue
        for error in _trace_errors(found.record, definitions, solutions):
            result.add(_at(found, error))
    result.checked["measurements"] = len(load_measurements(root, result.problems))
    load_counts(root, result.problems)
    for _, problem in check_overrides(root, definitions):
        result.checked["evaluation sidecars"] += 1
        if problem is not None:
            result.add(problem)
    return result


def _definitions(root: Path, result: Validation) -> dict[str, Definition]:
    known: dict[str, Definition] = {}
    files: dict[str, Path] = {}
    for found in reading.definitions(root):
        result.checked["definitions"] += 1
        definition = found.record
        if definition is None:
            _report(found, result)
            continue
        if definition.name in known:
            result.add(duplicate("definition", definition.name, found.file, files[definition.name]))
            continue
        known[definition.name], files[definition.name] = definition, found.file
        try:
            layout.definition_file(root, definition)
        except SchemaError as error:
            result.add(_at(found, error))
    return known


def _solutions(root: Path, definitions: dict[str, Definition], result: Validation) -> dict[str, Solution]:
    known: dict[str, Solution] = {}
    files: dict[str, Path] = {}
    for found in reading.solutions(root):
        result.checked["solutions"] += 1
        solution = found.record
        if solution is None:
            _report(found, result)
            continue
        if solution.name in known:
            result.add(duplicate("solution", solution.name, found.file, files[solution.name]))
            continue
        known[solution.name], files[solution.name] = solution, found.file
        if solution.definition not in definitions:
            result.add(_at(found, _unknown("definition", solution.definition)))
    return known


def _workload_errors(trace: Trace, definitions: dict[str, Definition], blobs: _Blobs) -> Iterator[SchemaError]:
    definition = definitions.get(trace.definition)
    if definition is None:
        yield _unknown("definition", trace.definition)
        return
    workload = trace.workload
    for axis in definition.var_axes:
        if axis not in workload.axes:
            yield SchemaError(f"the variable axis {axis!r} has no value", field="workload.axes", remedy="add it")
    for axis, size in workload.axes.items():
        if axis not in definition.axes:
            yield SchemaError(
                f"the definition has no axis {axis!r}", field=f"workload.axes.{axis}", remedy="remove or rename it"
            )
        elif definition.const_axes.get(axis, size) != size:
            yield SchemaError(
                f"axis {axis!r} is {definition.const_axes[axis]} in the definition, not {size}",
                field=f"workload.axes.{axis}",
                remedy="remove it, or name another definition",
            )
    for name in definition.inputs:
        if name not in workload.inputs:
            yield SchemaError(f"the input {name!r} has no source", field="workload.inputs", remedy="add it")
    for name, source in workload.inputs.items():
        where = f"workload.inputs.{name}"
        spec = definition.inputs.get(name)
        if spec is None:
            yield SchemaError(f"the definition has no input {name!r}", field=where, remedy="remove or rename it")
        elif spec.shape is not None and isinstance(source, ScalarInput):
            yield SchemaError("a scalar stands for a tensor", field=where, remedy="use random or safetensors")
        elif spec.shape is None and isinstance(source, RandomInput):
            yield SchemaError("a scalar has no value", field=where, remedy='use {"type": "scalar", "value": ...}')
    yield from _blob_errors(trace, definition, blobs)


def _blob_errors(trace: Trace, definition: Definition, blobs: _Blobs) -> Iterator[SchemaError]:
    for name, source in blobs_of(trace.workload).items():
        where = f"workload.inputs.{name}"
        tensors = blobs.header(source.path)
        if isinstance(tensors, SchemaError):
            yield SchemaError(f"{source.path}: {tensors.problem}", field=f"{where}.path", remedy=tensors.remedy)
        elif source.tensor_key not in tensors:
            yield SchemaError(
                f"{source.path} holds no tensor {source.tensor_key!r}",
                field=f"{where}.tensor_key",
                remedy=f"it holds: {', '.join(tensors) or 'nothing'}",
            )
        elif name in definition.inputs:
            why = mismatch(tensors[source.tensor_key], definition, name, trace.workload.axes)
            if why:
                yield SchemaError(f"{source.path} {why}", field=where, remedy="capture the workload again")


def _trace_errors(
    trace: Trace, definitions: dict[str, Definition], solutions: dict[str, Solution]
) -> Iterator[SchemaError]:
    if trace.definition not in definitions:
        yield _unknown("definition", trace.definition)
    if trace.solution is None:
        yield SchemaError("an evaluation names no solution", field="solution", remedy="name it")
    elif trace.solution not in solutions:
        yield _unknown("solution", trace.solution)
    elif solutions[trace.solution].definition != trace.definition:
        yield SchemaError(
            f"{trace.solution!r} solves {solutions[trace.solution].definition!r}, not {trace.definition!r}",
            field="solution",
            remedy="correct the solution or the definition",
        )
    if trace.evaluation is None:
        yield SchemaError("a solution has no evaluation", field="evaluation", remedy="bench it again")


class _Blobs:
    """Headers of blobs; several inputs and many workloads share a file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, dict[str, Stored] | SchemaError] = {}

    def header(self, path: str) -> dict[str, Stored] | SchemaError:
        if path not in self._known:
            try:
                self._known[path] = read_header(self._root / path)
            except SchemaError as error:
                self._known[path] = error
        return self._known[path]


def _unknown(kind: str, name: str) -> SchemaError:
    return SchemaError(f"names the unknown {kind} {name!r}", field=kind, remedy=f"add the {kind}, or correct the name")


def _uuid_twice(first: reading.Found[Trace]) -> SchemaError:
    return SchemaError(
        f"the uuid is already that of {first.file}:{first.line}",
        field="workload.uuid",
        remedy="run `fib dataset merge`, or give one of the two a new uuid",
    )


def _at(
    found: reading.Found[Trace] | reading.Found[Definition] | reading.Found[Solution], error: SchemaError
) -> SchemaError:
    return error.located(found.file, found.line)


def _report(
    found: reading.Found[Trace] | reading.Found[Definition] | reading.Found[Solution], result: Validation
) -> None:
    if found.error is not None:
        result.add(found.error)
