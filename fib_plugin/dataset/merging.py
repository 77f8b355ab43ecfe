"""Merges datasets: all of others into one, each record once. Sources are only read; running again adds nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fib_plugin.dataset import layout, reading
from fib_plugin.dataset.blobs import blobs_of, file_hash
from fib_plugin.dataset.counts import take_larger
from fib_plugin.dataset.evaluation import evaluation_override
from fib_plugin.dataset.files import copy_file, write_file
from fib_plugin.dataset.fold import fold
from fib_plugin.dataset.identity import Identity, blob_path, canonical
from fib_plugin.dataset.lines import append_lines, read_lines
from fib_plugin.dataset.measurements import read_measurement
from fib_plugin.dataset.merge_lock import merge_lock
from fib_plugin.dataset.merge_report import MergeReport
from fib_plugin.dataset.merge_samples import Samples
from fib_plugin.dataset.owner import is_written
from fib_plugin.dataset.torn import repair
from fib_plugin.dataset.trace_set import TraceSet
from fib_plugin.schema import Definition, InputSpec, SchemaError, Trace, Workload, dump_line


def merge(into: Path, sources: Sequence[Path] = (), every: bool = False) -> MergeReport:
    """Bring `sources` into a dataset; without sources, or for the dataset itself, fold its shards.

    every: take the shards of living processes too.
    """
    report = MergeReport(into)
    others = [source for source in sources if source.resolve() != into.resolve()]
    for source in others:
        if not source.is_dir():
            raise SchemaError("no such folder", file=source, remedy="name the folder of a dataset")
    layout.create(into)
    with merge_lock(into):
        repair(into, report)
        if len(others) < len(sources) or not others:
            fold(into, report, every)
        for source in others:
            _Source(source, into, report, every).merge()
    return report


class _Source:
    """One source on its way into one dataset."""

    def __init__(self, source: Path, into: Path, report: MergeReport, every: bool) -> None:
        self._source = source
        self._into = into
        self._report = report
        self._every = every
        self._target = TraceSet.from_path(into, strict=False)
        self._refused: dict[str, str] = {}
        """Definitions and solutions that stay behind, as 'kind name', and why."""
        self._renamed: dict[str, str] = {}

    def merge(self) -> None:
        self._definitions()
        self._solutions()
        self._workloads()
        self._traces()
        self._measurements()
        self._evaluation()
        self._counts()

    def _definitions(self) -> None:
        for found in reading.definitions(self._source):
            if found.record is None:
                self._reject_document(found.file, found.error)
                continue
            try:
                new = found.record.name not in self._target.definitions
                self._target.add_definition(found.record)
                self._report.added["definitions"] += new
            except SchemaError as error:
                self._refused[f"definition {found.record.name}"] = error.problem
                self._reject_document(found.file, _against(error))

    def _solutions(self) -> None:
        for found in reading.solutions(self._source):
            solution = found.record
            if solution is None:
                self._reject_document(found.file, found.error)
                continue
            try:
                self._check_definition(solution.definition)
                new = self._target.get_solution(solution.name) is None
                self._target.add_solution(solution)
                self._report.added["solutions"] += new
            except SchemaError as error:
                self._refused[f"solution {solution.name}"] = error.problem
                self._reject_document(found.file, _against(error))

    def _workloads(self) -> None:
        here, there = Identity(self._source), Identity(self._into)
        samples = Samples(self._source, self._into, self._report)
        keys: dict[str, dict[str, str]] = {}
        uuids: dict[str, set[str]] = {}
        batches: dict[Path, list[bytes]] = defaultdict(list)
        for file in reading.files_below(self._source / layout.WORKLOADS, ".jsonl", self._report.problems):
            shard = layout.shard_of(file)
            if shard is not None and not self._every and is_written(shard):
                self._report.shards_left.append(file)
                continue
            for found in reading.read_traces(file, workload=True):
                trace = found.record
                if trace is None:
                    self._reject_line(found)
                    continue
                try:
                    definition = self._check_definition(trace.definition)
                    if samples.let_go(definition, trace.workload.uuid):
                        self._report.let_go += 1
                        continue
                    key = here.key(trace)
                    if definition.name not in keys:
                        keys[definition.name] = self._known_keys(definition.name, there)
                        uuids[definition.name] = {
                            known.workload.uuid for known in self._target.workloads.get(definition.name, ())
                        }
                    if key in keys[definition.name]:
                        self._report.duplicates += 1
                        samples.rename(definition, trace.workload.uuid, keys[definition.name][key])
                        continue
                    moved = self._with_blobs(trace)
                except (SchemaError, OSError) as error:
                    self._reject_line(found, error)
                    continue
                if moved.workload.uuid in uuids[definition.name]:
                    moved = _with_workload(moved, uuid=f"{moved.workload.uuid}-{key[:8]}")
                    samples.rename(definition, trace.workload.uuid, moved.workload.uuid)
                keys[definition.name][key] = moved.workload.uuid
                uuids[definition.name].add(moved.workload.uuid)
                line = found.raw if moved is trace else dump_line(moved)
                batches[layout.workloads_file(self._into, definition)].append(line)
                self._report.added["workloads"] += 1
        samples.write()
        for file, lines in batches.items():
            append_lines(file, lines)
        samples.prune()

    def _known_keys(self, definition: str, identity: Identity) -> dict[str, str]:
        """Content -> uuid of what is there."""
        keys: dict[str, str] = {}
        for trace in self._target.workloads.get(definition, ()):
            try:
                keys.setdefault(identity.key(trace), trace.workload.uuid)
            except (SchemaError, OSError):
                continue  # its blob is missing, which `validate` reports
        return keys

    def _traces(self) -> None:
        known: dict[str, set[str]] = {}
        batches: dict[Path, list[bytes]] = defaultdict(list)
        for found in reading.traces(self._source):
            trace = found.record
            if trace is None:
                self._reject_line(found)
                continue
            try:
                definition = self._check_definition(trace.definition)
                refused = self._refused.get(f"solution {trace.solution}")
                solution = self._target.get_solution(trace.solution or "")
                if refused or solution is None:
                    raise _missing("solution", trace.solution, refused)
                file = layout.traces_file(self._into, solution.author, definition)
                moved = self._with_blobs(trace, needed=False)
            except (SchemaError, OSError) as error:
                self._reject_line(found, error)
                continue
            if definition.name not in known:
                stored = self._target.traces.get(definition.name, ())
                known[definition.name] = {canonical(msgspec.json.decode(dump_line(one))) for one in stored}
            key = canonical(msgspec.json.decode(dump_line(moved)))
            if key in known[definition.name]:
                self._report.duplicates += 1
                continue
            known[definition.name].add(key)
            batches[file].append(found.raw if moved is trace else dump_line(moved))
            self._report.added["traces"] += 1
        for file, lines in batches.items():
            append_lines(file, lines)

    def _measurements(self) -> None:
        for file in reading.files_below(self._source / layout.MEASUREMENTS, ".jsonl", self._report.problems):
            relative = file.relative_to(self._source)
            target = self._into / relative
            known = {line for _, line in read_lines(target)} if target.exists() else set()
            lines = []
            for number, line in read_lines(file):
                if line in known:
                    continue
                try:
                    read_measurement(line, file, number)
                except SchemaError as error:
                    self._report.reject(file, relative, error, line, number)
                    continue
                known.add(line)
                lines.append(line)
            append_lines(target, lines)
            self._report.added["measurements"] += len(lines)

    def _evaluation(self) -> None:
        """Sidecars that say how a definition is judged; one that contradicts the stored one stays behind."""
        for file in reading.files_below(self._source / layout.EVALUATION, ".yaml", self._report.problems):
            try:
                definition = self._check_definition(file.stem)
                if file != layout.evaluation_file(self._source, definition):
                    right = layout.evaluation_file(self._source, definition).relative_to(self._source)
                    raise SchemaError("nothing reads it here", file=file, remedy=f"move it to {right}")
                new, stored = (evaluation_override(definition, root) for root in (self._source, self._into))
                if stored is None:
                    write_file(layout.evaluation_file(self._into, definition), file.read_bytes())
                    self._report.added["evaluation_sidecars"] += 1
                elif new != stored:
                    raise SchemaError(
                        f"{definition.name} is judged otherwise here",
                        file=layout.evaluation_file(self._into, definition),
                        remedy="make the two say the same, or remove one",
                    )
            except SchemaError as error:
                self._reject_document(file, error if error.file == str(file) else _against(error))

    def _counts(self) -> None:
        for file in reading.files_below(self._source / layout.COUNTS, ".json", self._report.problems):
            try:
                self._report.added["counts"] += take_larger(file, self._into / layout.COUNTS / file.name)
            except SchemaError as error:
                self._reject_document(file, error)

    def _check_definition(self, name: str) -> Definition:
        refused = self._refused.get(f"definition {name}")
        definition = self._target.definitions.get(name)
        if refused is None and definition is not None:
            return definition
        raise _missing("definition", name, refused)

    def _with_blobs(self, trace: Trace, needed: bool = True) -> Trace:
        """The trace with its blobs in the merged dataset, under new paths where theirs are taken."""
        inputs: dict[str, InputSpec] = dict(trace.workload.inputs)
        for name, source in blobs_of(trace.workload).items():
            path = self._blob(source.path, needed)
            if path != blob_path(source.path):
                inputs[name] = source.model_copy(update={"path": path})
        if inputs == trace.workload.inputs:
            return trace
        return _with_workload(trace, inputs=inputs)

    def _blob(self, path: str, needed: bool) -> str:
        path = blob_path(path)
        file = self._source / path
        if path in self._renamed or (not needed and not file.exists()):
            return self._renamed.get(path, path)
        digest = file_hash(file)
        free = path
        if (self._into / path).exists() and file_hash(self._into / path) != digest:
            stem, dot, suffix = path.rpartition(".")
            free = f"{stem}_{digest[:16]}{dot}{suffix}" if dot else f"{path}_{digest[:16]}"
        if not (self._into / free).exists():
            copy_file(file, self._into / free)
            self._report.added["blobs"] += 1
            self._report.added["blobs_renamed"] += free != path
        self._renamed[path] = free
        return free

    def _reject_document(self, file: Path, error: SchemaError | None) -> None:
        error = error or SchemaError("unreadable", file=file)
        try:
            raw = file.read_bytes()
        except OSError:
            self._report.problems.extend(error.flat())
            return
        self._report.reject(file, file.relative_to(self._source), error, raw)

    def _reject_line(self, found: reading.Found[Trace], error: Exception | None = None) -> None:
        reason = error or found.error or SchemaError("unreadable")
        if not isinstance(reason, SchemaError):
            reason = SchemaError(str(reason), remedy="see the file that it names")
        relative = found.file.relative_to(self._source)
        if not found.raw:
            self._report.problems.extend(reason.flat())
        elif reading.is_torn(found):
            shard = layout.shard_of(found.file)
            if shard is not None and is_written(shard):
                return  # its process is in the middle of this line; the next merge finds it whole
            self._report.reject_torn(found.file, relative, found.raw, found.line)
        else:
            self._report.reject(found.file, relative, reason, found.raw, found.line)


def _missing(kind: str, name: str | None, refused: str | None) -> SchemaError:
    why = f": {refused}" if refused else ""
    return SchemaError(
        f"its {kind} {name!r} is not in the merged dataset{why}", field=kind, remedy=f"merge the {kind} first"
    )


def _with_workload(trace: Trace, **changed: object) -> Trace:
    workload: Workload = trace.workload.model_copy(update=changed)
    return trace.model_copy(update={"workload": workload})


def _against(error: SchemaError) -> SchemaError:
    """An error of the merged dataset, told of the file in the source: both are named."""
    problem = f"{error.problem} (in {error.file})" if error.file else error.problem
    return SchemaError(problem, field=error.field, remedy=error.remedy)
