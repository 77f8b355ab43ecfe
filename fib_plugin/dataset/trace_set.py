"""TraceSet: a dataset as dictionaries, and the safe ways to add to it. Where everybody who reads a dataset starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.collection import no_collection
from fib_plugin.dataset.files import write_file
from fib_plugin.dataset.lines import append_lines, lock_for
from fib_plugin.dataset.reading import Found
from fib_plugin.schema import (
    Definition,
    Record,
    SchemaError,
    Solution,
    Trace,
    content_hash,
    dump_line,
    dump_pretty,
    parse,
)

R = TypeVar("R", bound=Record)


class TraceSet:
    """All records of one dataset. Without a root it lives in memory only.

    >>> traces = TraceSet.from_path("~/dataset")
    >>> [trace.workload.axes for trace in traces.workloads["gemm_n128_k64"]]
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.definitions: dict[str, Definition] = {}
        self.solutions: dict[str, list[Solution]] = {}
        self._workloads: dict[str, list[Trace]] | None = {}
        self._traces: dict[str, list[Trace]] | None = {}
        self._problems: list[SchemaError] = []
        self._definition_files: dict[str, Path] = {}
        self._solution_files: dict[str, Path] = {}
        self._solutions_by_name: dict[str, Solution] = {}

    @classmethod
    def from_path(cls, path: str | Path, strict: bool = True) -> TraceSet:
        """Load a dataset. A folder that does not exist is an empty dataset.

        strict: raise SchemaError at the first problem. Otherwise problems are collected in `problems` and everything
        else is loaded; workloads and traces are then read on first access.
        """
        traces = cls(path)
        if traces._is_folder():
            traces._load_documents()
            traces._workloads = traces._traces = None
        if strict:
            for problem in traces._problems or traces.problems:
                raise problem
        return traces

    @property
    def workloads(self) -> dict[str, list[Trace]]:
        """Definition name -> lines without a solution."""
        if self._workloads is None:
            self._workloads = self._by_definition(reading.workloads)
        return self._workloads

    @property
    def traces(self) -> dict[str, list[Trace]]:
        """Definition name -> evaluations of solutions."""
        if self._traces is None:
            self._traces = self._by_definition(reading.traces)
        return self._traces

    @property
    def problems(self) -> list[SchemaError]:
        """What could not be loaded, each with file, line and field."""
        _ = self.workloads, self.traces
        return self._problems

    def get_solution(self, name: str) -> Solution | None:
        return self._solutions_by_name.get(name)

    def filter_traces(self, definition: str, atol: float = 1e-2, rtol: float = 1e-2) -> list[Trace]:
        """Passed traces of a definition whose errors are within both bounds."""
        return [trace for trace in self.traces.get(definition, ()) if _within(trace, atol, rtol)]

    def get_best_trace(
        self,
        definition: str,
        axes: Mapping[str, int] | None = None,
        max_abs_error: float = 1e-2,
        max_rel_error: float = 1e-2,
    ) -> Trace | None:
        """The passed trace with the highest speedup over the reference, at the given axes if there are any."""
        wanted = (axes or {}).items()
        candidates = [
            trace
            for trace in self.filter_traces(definition, max_abs_error, max_rel_error)
            if all(trace.workload.axes.get(axis) == size for axis, size in wanted)
        ]
        return max(candidates, key=_speedup, default=None)

    def add_definition(self, definition: Definition) -> None:
        """Store a definition. One that is there already is left as it is; a different one of that name is an error."""
        known = self.definitions.get(definition.name)
        if known is not None:
            _same_definition(known, definition, self._definition_files.get(definition.name))
            return
        if self.root is not None:
            file = layout.definition_file(self.root, definition)
            with lock_for(self.root / layout.DOCUMENTS):
                stored = _read_if_there(file, Definition)
                if stored is None:
                    write_file(file, dump_pretty(definition))
                else:  # another process was first
                    _same_definition(stored, definition, file)
                    definition = stored
            self._definition_files[definition.name] = file
        self.definitions[definition.name] = definition

    def add_solution(self, solution: Solution, replace: bool = False) -> None:
        """Store a solution. Another one of that name is an error, unless it is to be replaced."""
        definition = self._definition(solution.definition, f"solution {solution.name}")
        known = self._solutions_by_name.get(solution.name)
        if known is not None and known.author == solution.author and content_hash(known) == content_hash(solution):
            return
        if known is not None and not replace:
            raise _other_solution(solution, self._solution_files.get(solution.name))
        if self.root is not None:
            file = layout.solution_file(self.root, solution, definition)
            with lock_for(self.root / layout.DOCUMENTS):
                stored = None if replace else _read_if_there(file, Solution)
                if stored is not None and content_hash(stored) != content_hash(solution):
                    raise _other_solution(solution, file)
                if stored is None:
                    write_file(file, dump_pretty(solution))
            previous = self._solution_files.get(solution.name)
            if previous is not None and previous != file:
                previous.unlink(missing_ok=True)
            self._solution_files[solution.name] = file
        if known is not None:
            self.solutions[known.definition].remove(known)
        self._remember(solution)

    def add_workloads(self, traces: Iterable[Trace]) -> None:
        """Append workloads, each to the file of its definition."""
        batches: dict[Path | None, list[Trace]] = defaultdict(list)
        for trace in traces:
            definition = self._definition(trace.definition, f"workload {trace.workload.uuid}")
            if not trace.is_workload:
                raise SchemaError(
                    f"{trace.workload.uuid} carries a solution or an evaluation",
                    field="solution",
                    remedy="store it with add_traces",
                )
            batches[self.root and layout.workloads_file(self.root, definition)].append(trace)
        self._append(batches, self.workloads)

    def add_traces(self, traces: Iterable[Trace]) -> None:
        """Append evaluations, each to the file of its solution's author and of its definition."""
        batches: dict[Path | None, list[Trace]] = defaultdict(list)
        for trace in traces:
            definition = self._definition(trace.definition, f"trace of {trace.solution}")
            solution = self._solutions_by_name.get(trace.solution or "")
            if solution is None:
                raise SchemaError(
                    f"a trace names the unknown solution {trace.solution!r}",
                    field="solution",
                    remedy="add the solution first",
                )
            batches[self.root and layout.traces_file(self.root, solution.author, definition)].append(trace)
        self._append(batches, self.traces)

    def _append(self, batches: Mapping[Path | None, list[Trace]], into: dict[str, list[Trace]]) -> None:
        for file, batch in batches.items():
            if file is not None:
                append_lines(file, [dump_line(trace) for trace in batch])
            for trace in batch:
                into.setdefault(trace.definition, []).append(trace)

    def _definition(self, name: str, user: str) -> Definition:
        definition = self.definitions.get(name)
        if definition is None:
            raise SchemaError(
                f"{user} names the unknown definition {name!r}",
                field="definition",
                remedy="add the definition first, or correct the name",
            )
        return definition

    def _remember(self, solution: Solution) -> None:
        self.solutions.setdefault(solution.definition, []).append(solution)
        self._solutions_by_name[solution.name] = solution

    def _is_folder(self) -> bool:
        root = self.root
        if root is None or root.is_dir():
            return root is not None
        if root.exists():
            self._problems.append(SchemaError("not a folder", file=root, remedy="name the folder of the dataset"))
        return False

    @no_collection()
    def _load_documents(self) -> None:
        root = self.root
        assert root is not None
        for file, definition in self._good(reading.definitions(root)):
            first = self._definition_files.setdefault(definition.name, file)
            if first is file:
                self.definitions[definition.name] = definition
            else:
                self._problems.append(duplicate("definition", definition.name, file, first))
        for file, solution in self._good(reading.solutions(root)):
            first = self._solution_files.setdefault(solution.name, file)
            if first is file:
                self._remember(solution)
            else:
                self._problems.append(duplicate("solution", solution.name, file, first))

    @no_collection()
    def _by_definition(self, read: Callable[[Path], Iterator[Found[Trace]]]) -> dict[str, list[Trace]]:
        loaded: dict[str, list[Trace]] = {}
        assert self.root is not None
        for _, trace in self._good(read(self.root)):
            loaded.setdefault(trace.definition, []).append(trace)
        return loaded

    def _good(self, records: Iterable[Found[R]]) -> Iterator[tuple[Path, R]]:
        for found in records:
            if found.error is not None:
                self._problems.extend(found.error.flat())
            if found.record is not None:
                yield found.file, found.record


def duplicate(kind: str, name: str, file: Path, first: Path) -> SchemaError:
    """Two files claim one name."""
    return SchemaError(
        f"the {kind} {name!r} is already in {first}", file=file, field="name", remedy="rename or remove one of the two"
    )


def same_contract(a: Definition, b: Definition) -> str | None:
    """None when two definitions demand the same of a solution, else the field that differs. Prose may differ."""
    left, right = a.model_dump(mode="json"), b.model_dump(mode="json")
    for field in (*left, *(field for field in right if field not in left)):
        if field not in ("description", "tags") and left.get(field) != right.get(field):
            return field
    return None


def _same_definition(stored: Definition, new: Definition, file: Path | None) -> None:
    field = same_contract(stored, new)
    if field is not None:
        raise SchemaError(
            f"a different definition {new.name!r} is stored; the new one differs in {field}",
            file=file,
            field=field,
            remedy="give the new definition another name",
        )


def _other_solution(solution: Solution, file: Path | None) -> SchemaError:
    return SchemaError(
        f"a different solution {solution.name!r} is stored; the new one is by {solution.author}",
        file=file,
        field="name",
        remedy="give the new solution another name, or replace the stored one",
    )


def _read_if_there(file: Path, model: type[R]) -> R | None:
    try:
        return parse(model, file.read_bytes(), file)
    except FileNotFoundError:
        return None


def _within(trace: Trace, atol: float, rtol: float) -> bool:
    if not trace.passed or trace.evaluation is None or trace.evaluation.correctness is None:
        return False
    errors = trace.evaluation.correctness
    return errors.max_absolute_error <= atol and errors.max_relative_error <= rtol


def _speedup(trace: Trace) -> float:
    performance = trace.evaluation.performance if trace.evaluation else None
    return performance.speedup_factor if performance else 0.0
