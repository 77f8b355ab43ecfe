"""flashinfer-bench 0.1.2 reads what we capture, and we keep what it writes: checked with its own package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_dataset import NAME, WORKLOADS, Dataset
from their_venv import TheirPython, their_python
from toy_capture import capture, definitions

from fib_plugin.cli.curate import key_axes
from fib_plugin.dataset import TraceSet, load_counts, merge, stats, validate
from fib_plugin.dataset.curating import curate
from fib_plugin.schema import (
    Correctness,
    Environment,
    Evaluation,
    EvaluationStatus,
    Performance,
)

SIZES = (1, 2, 3, 5, 8)


@pytest.fixture(scope="module")
def theirs() -> TheirPython:
    return their_python()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The folder that make_runtime writes to, in place of the sample dataset of the other tests here."""
    return tmp_path / "live"


@pytest.fixture
def captured(make_runtime: Callable[..., Any], tmp_path: Path) -> Path:
    """Calls of every family, captured, merged into a folder of their own; with an evaluation of an engine's op."""
    runtime = make_runtime(apply=False, tracing=True)
    capture(runtime, SIZES)
    runtime.close()
    root = tmp_path / "captured"
    assert merge(root, [runtime.settings.dataset_path], every=True).problems == []
    traces = TraceSet.from_path(root)
    environment = Environment(hardware="cpu", libs={"torch": "2.9.0"})
    evaluation = Evaluation(
        status=EvaluationStatus.PASSED,
        environment=environment,
        timestamp="2026-01-01T00:00:00+00:00",
        correctness=Correctness(max_relative_error=float("nan"), max_absolute_error=0.0),
        performance=Performance(latency_ms=1.0, reference_latency_ms=2.0, speedup_factor=2.0),
    )
    for name, (workload, *_) in traces.workloads.items():
        (solution,) = traces.solutions[name]
        traces.add_traces([workload.model_copy(update={"solution": solution.name, "evaluation": evaluation})])
    return root


def test_the_capture_holds_every_family_at_every_size_and_counts_every_call(captured: Path) -> None:
    assert validate(captured).problems == []
    rows, problems = stats(captured, key_axes)
    assert problems == []
    assert {row.definition for row in rows} == {definition.name for definition in definitions()}
    assert {(row.workloads, row.shapes, row.calls, row.solutions) for row in rows} == {(5, 5, 10, 1)}


def test_their_loader_and_checks_accept_a_captured_dataset(captured: Path, theirs: TheirPython) -> None:
    families = len(definitions())
    answer = theirs.side("check", captured)
    assert answer["ran"] == {definition.name: len(SIZES) for definition in definitions()}
    counted = {kind: answer[kind] for kind in ("definitions", "solutions", "workloads", "traces")}
    assert counted == {"definitions": families, "solutions": families, "workloads": 5 * families, "traces": families}


def test_their_command_line_reads_a_captured_dataset(captured: Path, theirs: TheirPython) -> None:
    # This version has no `validate`: its reports load the whole dataset. A later one that has it is to be run here.
    assert "validate" not in theirs.command("--help")
    theirs.command("report", "summary", "--local", captured)
    theirs.command("report", "best", "--local", captured)


def test_their_loader_and_checks_accept_a_curated_dataset(captured: Path, theirs: TheirPython, tmp_path: Path) -> None:
    curate(captured, tmp_path / "curated", keep=3, keys=key_axes)
    assert theirs.side("check", tmp_path / "curated")["ran"] == {each.name: 3 for each in definitions()}
    assert curate(captured, keep=2, keys=key_axes).moved == 3 * len(definitions())
    assert theirs.side("check", captured)["ran"] == {each.name: 2 for each in definitions()}


# ---- the other way round ---------------------------------------------------------------------------------------------


@pytest.fixture
def written(theirs: TheirPython, tmp_path: Path) -> Dataset:
    """A dataset that their TraceSet wrote, with fields of a later version of their schema."""
    made = Dataset(tmp_path / "theirs")
    assert theirs.side("write", made.root) == {"workloads": 60}
    for line in (lines := made.read(WORKLOADS)):
        line["workload"]["inputs"]["index"]["zzz_layout"] = {"deep": [None, 1.5]}
        line["zzz_origin"] = "theirs"
    made.lines(WORKLOADS, *lines)
    for file in (f"definitions/gather/{NAME}.json", f"solutions/someone/gather/{NAME}/plain.json"):
        made.document(file, {**json.loads((made.root / file).read_text()), "zzz_version": 2})
    return made


def test_a_dataset_of_theirs_is_valid(written: Dataset) -> None:
    result = validate(written.root)
    assert result.problems == []
    assert (result.checked["workloads"], result.checked["traces"]) == (60, 1)


def test_merging_a_dataset_of_theirs_keeps_every_record_and_unknown_field(
    written: Dataset, theirs: TheirPython, tmp_path: Path
) -> None:
    into = Dataset(tmp_path / "into")
    report = merge(into.root, [written.root])
    assert report.problems == []
    assert into.read(WORKLOADS) == written.read(WORKLOADS)
    for file in (f"definitions/gather/{NAME}.json", f"solutions/someone/gather/{NAME}/plain.json"):
        merged, theirs_own = (json.loads((root / file).read_text()) for root in (into.root, written.root))
        # Their writer leaves the axes' default types out; ours writes them, since other readers need them.
        axes = {"n": {"type": "var"}, "m": {"type": "var"}, "d": {"type": "const", "value": 4}}
        assert merged == {**theirs_own, **({"axes": axes} if "axes" in theirs_own else {})}
    assert into.read(f"traces/someone/gather/{NAME}.jsonl") == written.read(f"traces/gather/{NAME}.jsonl")
    answer = theirs.side("check", into.root)
    assert (answer["ran"], answer["traces"]) == ({NAME: 60}, 1)


def test_curating_a_dataset_of_theirs_keeps_unknown_fields_and_they_can_read_it(
    written: Dataset, theirs: TheirPython, tmp_path: Path
) -> None:
    into = Dataset(tmp_path / "into")
    report = curate(written.root, into.root, keep=12)
    assert (report.problems, len(into.read(WORKLOADS)), load_counts(into.root)) == ([], 12, {})
    assert all(line in written.read(WORKLOADS) for line in into.read(WORKLOADS))
    assert json.loads((into.root / f"definitions/gather/{NAME}.json").read_text())["zzz_version"] == 2
    assert theirs.side("check", into.root)["ran"] == {NAME: 12}
