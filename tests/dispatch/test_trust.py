"""Only content whose hash is in fib.lock is loaded; what was trusted and what it is now are told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from proven import measurement, silu, solution, store

from fib_plugin.dataset import TraceSet, current_environment
from fib_plugin.dispatch import trust as trusting
from fib_plugin.dispatch.lock_file import LockFile
from fib_plugin.dispatch.reason import Reason
from fib_plugin.dispatch.trust import Benchmarks, Contents, Trust
from fib_plugin.schema import Solution, SourceFile, content_hash

MADE = solution(silu())


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "fib.lock"


def add(
    lock: Path, *solutions: Solution, run: str = "run", up_to: dict[str, int] | None = None
) -> list[trusting.Added]:
    passed = {s.name: measurement(s, {"M": 4}, run=run) for s in solutions} if run else {}
    return trusting.add(lock, {s.name: s for s in solutions}, passed, up_to)


def changed(made: Solution, line: str = "# another line\n") -> Solution:
    (source,) = made.sources
    return made.model_copy(update={"sources": [SourceFile(path=source.path, content=source.content + line)]})


# ---- refusal --------------------------------------------------------------------------------------------------------


def test_trusted_content_is_not_refused(lock: Path) -> None:
    add(lock, MADE)
    assert Trust.load(lock).refusal(MADE.name, content_hash(MADE)) is None


def test_without_a_file_nothing_is_trusted_and_nothing_is_wrong(lock: Path) -> None:
    trust = Trust.load(lock)
    assert trust.refusal(MADE.name, content_hash(MADE)) is Reason.NOT_TRUSTED
    assert trust.problem is None


def test_other_content_under_a_trusted_name_is_told_from_what_nobody_trusted(lock: Path) -> None:
    add(lock, MADE)
    trust = Trust.load(lock)
    assert trust.refusal(MADE.name, content_hash(changed(MADE))) is Reason.CHANGED_SINCE_TRUSTED
    assert trust.refusal("stranger", content_hash(changed(MADE))) is Reason.NOT_TRUSTED


def test_trusted_content_under_another_name_is_trusted(lock: Path) -> None:
    add(lock, MADE)
    copy = MADE.model_copy(update={"name": "copy", "author": "somebody"})
    assert Trust.load(lock).refusal(copy.name, content_hash(copy)) is None


def test_one_byte_of_a_source_or_of_the_spec_is_refused(lock: Path, dataset: Path) -> None:
    store(dataset, silu(), MADE)
    add(lock, MADE)
    (file,) = (dataset / "solutions").rglob("*.json")
    text = file.read_text()
    for before, after in (("100.0", "100.1"), ('"main.py::run"', '"main.py::_reference"')):
        assert before in text
        file.write_text(text.replace(before, after, 1))
        tampered = TraceSet.from_path(dataset).get_solution(MADE.name)
        assert tampered is not None
        refusal = Trust.load(lock).refusal(tampered.name, content_hash(tampered))
        assert refusal is Reason.CHANGED_SINCE_TRUSTED


@pytest.mark.parametrize("content", ["[[solution", "solution = 3", '[[solution]]\nname = "fast"\n'])
def test_a_broken_file_trusts_nothing_and_says_where_and_what_to_do(lock: Path, content: str) -> None:
    lock.write_text(content)
    trust = Trust.load(lock)
    assert trust.refusal(MADE.name, content_hash(MADE)) is Reason.NOT_TRUSTED
    assert str(lock) in str(trust.problem)
    assert "fib trust add" in str(trust.problem)


def test_a_folder_in_its_place_trusts_nothing_and_does_not_raise(lock: Path) -> None:
    lock.mkdir()
    trust = Trust.load(lock)
    assert trust.refusal(MADE.name, content_hash(MADE)) is Reason.NOT_TRUSTED
    assert "cannot be read" in str(trust.problem)


def test_it_is_imported_without_torch() -> None:
    code = "import sys, fib_plugin.dispatch.trust, fib_plugin.dispatch.quarantine; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---- add and remove -------------------------------------------------------------------------------------------------


def test_a_table_says_who_trusted_what_when_and_after_which_run(lock: Path) -> None:
    add(lock, MADE, run="run-7")
    (entry,) = LockFile.read(lock).solutions
    assert (entry.name, entry.definition, entry.author) == ("fast", silu().name, "test")
    assert (entry.hash, entry.run, entry.hardware) == (content_hash(MADE), "run-7", current_environment().hardware)
    assert entry.trusted_by == trusting.whoami()
    assert "@" in entry.trusted_by
    assert entry.trusted_at.endswith("+00:00")


def test_trusting_again_changes_nothing(lock: Path) -> None:
    add(lock, MADE)
    before = lock.read_bytes()
    (change,) = add(lock, MADE, run="a later run")
    assert (change.new, lock.read_bytes()) == (False, before)


def test_a_benchmark_is_noted_where_content_was_trusted_without_one(lock: Path) -> None:
    add(lock, MADE, run="")
    assert LockFile.read(lock).solutions[0].run == ""
    (change,) = add(lock, MADE, run="run-7")
    assert change.new
    assert LockFile.read(lock).solutions[0].run == "run-7"


def test_new_content_takes_the_place_of_what_its_name_stood_for(lock: Path) -> None:
    add(lock, MADE)
    new = changed(MADE)
    (change,) = add(lock, new)
    assert [entry.hash for entry in change.replaced] == [content_hash(MADE)]
    trust = Trust.load(lock)
    assert trust.refusal(MADE.name, content_hash(new)) is None
    assert trust.refusal(MADE.name, content_hash(MADE)) is Reason.CHANGED_SINCE_TRUSTED


def test_a_note_in_a_table_stays_with_its_content_and_not_with_its_name(lock: Path) -> None:
    add(lock, MADE, run="")
    lock.write_text(lock.read_text() + 'note = "read by Ann"\n')
    add(lock, MADE, run="run-7")
    assert LockFile.read(lock).solutions[0].extra == {"note": "read by Ann"}
    add(lock, changed(MADE))
    assert LockFile.read(lock).solutions[0].extra == {}


def test_sizes_up_to_a_limit_are_trusted_and_axes_that_are_not_named_do_not_matter(lock: Path) -> None:
    add(lock, MADE, up_to={"M": 16, "batch_size": 8})
    trust, hash = Trust.load(lock), content_hash(MADE)
    assert [trust.beyond(hash, {"M": size, "N": 4096}) for size in (1, 16, 17)] == [False, False, True]
    assert trust.beyond(hash, {"batch_size": 9})
    assert not trust.beyond(content_hash(changed(MADE)), {"M": 17})


def test_a_limit_stays_until_it_is_given_again(lock: Path) -> None:
    add(lock, MADE, run="run-7", up_to={"M": 16})
    assert "up_to = { M = 16 }" in lock.read_text()
    assert not add(lock, MADE, run="run-8")[0].new
    assert add(lock, MADE, run="", up_to={"M": 32})[0].new
    (entry,) = LockFile.read(lock).solutions
    assert (entry.run, entry.hardware) == ("run-7", current_environment().hardware)
    assert entry.up_to == {"M": 32}
    add(lock, changed(MADE))
    assert "up_to" not in lock.read_text(), "other content was never limited"


def test_removing_takes_names_globs_and_the_first_letters_of_a_hash(lock: Path) -> None:
    a, b, c, d = (changed(MADE, f"# {n}\n").model_copy(update={"name": n}) for n in ("a", "b_1", "b_2", "d"))
    add(lock, a, b, c, d)
    removed, unmatched = trusting.remove(lock, ["a", "b_*", content_hash(d)[:8], "zzz"])
    assert [entry.name for entry in removed] == ["a", "b_1", "b_2", "d"]
    assert unmatched == ["zzz"]
    assert LockFile.read(lock).solutions == []


def test_a_few_letters_of_a_hash_remove_nothing(lock: Path) -> None:
    add(lock, MADE)
    removed, unmatched = trusting.remove(lock, [content_hash(MADE)[:5]])
    assert (removed, len(unmatched)) == ([], 1)


# ---- verify ---------------------------------------------------------------------------------------------------------


def verdict(lock: Path, dataset: Path) -> trusting.Verdict:
    (only,) = trusting.verify(Trust.load(lock).solutions, Contents.of(dataset))
    return only


def test_untouched_files_verify(lock: Path, dataset: Path) -> None:
    store(dataset, silu(), MADE)
    add(lock, MADE)
    assert verdict(lock, dataset).state == "ok"


def test_the_source_that_was_tampered_with_is_named(lock: Path, dataset: Path) -> None:
    more = SourceFile(path="extra.py", content="x = 1\n")
    made = MADE.model_copy(update={"sources": [*MADE.sources, more]})
    store(dataset, silu(), made)
    add(lock, made)
    (file,) = (dataset / "solutions").rglob("*.json")
    file.write_text(file.read_text().replace("x = 1", "x = 2"))
    found = verdict(lock, dataset)
    assert (found.state, found.detail) == ("changed", "extra.py changed")


def test_a_changed_spec_and_added_and_removed_sources_are_named(lock: Path, dataset: Path) -> None:
    made = MADE.model_copy(update={"sources": [*MADE.sources, SourceFile(path="old.py", content="1\n")]})
    now = MADE.model_copy(
        update={
            "sources": [*MADE.sources, SourceFile(path="new.py", content="1\n")],
            "spec": MADE.spec.model_copy(update={"destination_passing_style": True}),
        }
    )
    store(dataset, silu(), now)
    add(lock, made)
    assert verdict(lock, dataset).detail == "new.py added, old.py removed, spec changed"


def test_a_table_without_digests_of_parts_tells_the_hashes(lock: Path, dataset: Path) -> None:
    store(dataset, silu(), MADE)
    lock.write_text(f'[[solution]]\nname = "fast"\nhash = "{"0" * 64}"\n')
    found = verdict(lock, dataset)
    assert (found.state, found.detail) == ("changed", f"hash is {content_hash(MADE)[:12]}, {'0' * 12} was trusted")


def test_a_file_that_was_spoilt_counts_as_changed(lock: Path, dataset: Path) -> None:
    store(dataset, silu(), MADE)
    add(lock, MADE)
    (file,) = (dataset / "solutions").rglob("*.json")
    file.write_text(file.read_text()[:-20])
    found = verdict(lock, dataset)
    assert found.state == "changed"
    assert str(file) in found.detail


def test_a_solution_that_is_gone_is_missing_and_one_that_was_renamed_is_ok(lock: Path, dataset: Path) -> None:
    store(dataset, silu(), changed(MADE).model_copy(update={"name": "other"}))
    add(lock, MADE)
    assert verdict(lock, dataset).state == "missing"
    store(dataset, silu(), MADE.model_copy(update={"name": "renamed"}))
    found = verdict(lock, dataset)
    assert (found.state, found.detail) == ("ok", "now named renamed")


# ---- what benchmarks say -------------------------------------------------------------------------------------------


def refusal(*measured: dict[str, object], made: Solution = MADE, unbenchmarked: bool = False) -> str:
    taken = [measurement(MADE, {"M": 4}, **fields) for fields in measured]
    problem = Benchmarks(taken, current_environment()).refusal(made, unbenchmarked)
    return "" if problem is None else str(problem)


def test_what_passed_here_may_be_trusted() -> None:
    assert refusal({}) == ""


def test_refusals_say_why_and_what_to_do() -> None:
    for problem, word in (
        (refusal(), "never benchmarked"),
        (refusal({}, made=changed(MADE)), "changed since its benchmark"),
        (refusal({"hardware": "another device"}), "another device"),
        (refusal({"status": "INCORRECT_NUMERICAL"}), "INCORRECT_NUMERICAL"),
    ):
        assert word in problem
        assert "fib bench --solutions fast" in problem


def test_an_engines_own_op_is_refused_whatever_is_said() -> None:
    engine = MADE.model_copy(update={"author": "engine"})
    assert "engine's own op" in refusal({}, made=engine, unbenchmarked=True)


def test_unbenchmarked_lets_in_what_never_ran() -> None:
    assert refusal(unbenchmarked=True) == ""


def test_failures_that_a_later_run_passed_do_not_count() -> None:
    runs = [("w1", "RUNTIME_ERROR"), ("w2", "RUNTIME_ERROR"), ("w1", "PASSED")]
    taken = [measurement(MADE, {"M": 4}, workload=workload, status=status) for workload, status in runs]
    benchmarks = Benchmarks(taken, current_environment())
    assert [one.workload for one in benchmarks.failed(MADE)] == ["w2"]
    assert benchmarks.passed(MADE) == taken[2]


def test_of_two_files_of_one_name_the_first_counts_as_for_an_engine(dataset: Path) -> None:
    store(dataset, silu(), MADE)
    (file,) = (dataset / "solutions").rglob("*.json")
    second = json.loads(file.read_text())
    second["sources"][0]["content"] += "# second\n"
    (file.parent / "zzz.json").write_text(json.dumps(second))
    contents = Contents.of(dataset)
    assert content_hash(contents.solutions["fast"]) == content_hash(MADE)
    assert "already in" in str(contents.problems[0])
