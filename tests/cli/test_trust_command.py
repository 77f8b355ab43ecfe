"""`fib trust` as its user meets it: what is trusted and what is refused, tables, JSON, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from proven import measurement, silu, solution, store
from typer.testing import CliRunner, Result

from fib_plugin.cli import app
from fib_plugin.dataset import append_measurements, current_environment
from fib_plugin.dispatch.lock_file import LockFile
from fib_plugin.dispatch.quarantine import Quarantine, Record
from fib_plugin.schema import Solution, content_hash

SILU = silu()


@pytest.fixture(autouse=True)
def place(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COLUMNS", "240")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "fib.lock"


def trust(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["trust", *arguments])


def made(name: str, author: str = "test") -> Solution:
    return solution(SILU, name, f"\n# {name}\n").model_copy(update={"author": author})


def proven(root: Path, *solutions: str | Solution, **changed: Any) -> None:
    """Stored and measured, and trusted by nobody."""
    for one in solutions:
        stored = made(one) if isinstance(one, str) else one
        store(root, SILU, stored)
        append_measurements(root, SILU.op_type, [measurement(stored, {"num_tokens": 4}, **changed)])


def names(lock: Path) -> list[str]:
    return [entry.name for entry in LockFile.read(lock).solutions]


def row(output: str, word: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if line.startswith("│") and word in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def quarantined(tmp_path: Path, name: str, hash: str) -> Quarantine:
    quarantine = Quarantine(tmp_path / "cache" / "quarantine")
    quarantine.add(
        Record(
            solution=name,
            definition=SILU.name,
            hash=hash,
            reason="solution_raised",
            axes={"M": 4},
            detail="boom",
            hardware=current_environment().hardware,
        )
    )
    return quarantine


def test_solutions_may_be_kept_to_sizes(dataset: Path, lock: Path) -> None:
    proven(dataset, "fast")
    told = trust("add", "fast", "--up-to", "num_tokens=16", "--up-to", "M=32")
    assert told.exit_code == 0, told.output
    assert "M=32 num_tokens=16" in row(told.output, "fast")
    assert LockFile.read(lock).solutions[0].up_to == {"M": 32, "num_tokens": 16}
    assert "M=32 num_tokens=16" in row(trust("list").output, "fast")


@pytest.mark.parametrize("limit", ["M", "M=", "=4", "M=0", "M=-1", "M=many"])
def test_a_limit_that_is_none_is_named_and_nothing_is_trusted(limit: str, dataset: Path, lock: Path) -> None:
    proven(dataset, "fast")
    told = trust("add", "fast", "--up-to", limit)
    assert told.exit_code == 2
    assert f"--up-to {limit} is no limit" in told.output
    assert "AXIS=SIZE" in told.output
    assert not lock.exists()


# ---- add ------------------------------------------------------------------------------------------------------------


def test_what_passed_a_benchmark_here_is_trusted_and_shown(dataset: Path, lock: Path) -> None:
    proven(dataset, "fast", run="run-7")
    result = trust("add", "fast")
    assert result.exit_code == 0, result.output
    assert row(result.output, "fast") == ["fast", SILU.name, content_hash(made("fast"))[:12], "run-7", "", ""]
    assert names(lock) == ["fast"]


def test_what_was_never_benchmarked_is_refused_with_the_remedy_and_exit_code_1(dataset: Path, lock: Path) -> None:
    store(dataset, SILU, made("new"))
    proven(dataset, "fast")
    result = trust("add", "new", "fast")
    assert result.exit_code == 1
    assert "refused: new: it was never benchmarked (run `fib bench --solutions new` first)" in result.output
    assert names(lock) == ["fast"]


def test_what_a_glob_names_and_is_refused_is_said_with_exit_code_0(dataset: Path, lock: Path) -> None:
    store(dataset, SILU, made("fast_new"))
    proven(dataset, "fast_1", "fast_2", "other")
    result = trust("add", "fast_*")
    assert result.exit_code == 0
    assert "refused: fast_new" in result.output
    assert names(lock) == ["fast_1", "fast_2"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"status": "INCORRECT_NUMERICAL", "ratio_low": None}, "INCORRECT_NUMERICAL"),
        ({"hardware": "another device"}, "another device"),
        ({"solution_hash": "0" * 64}, "changed since its benchmark"),
    ],
)
def test_a_benchmark_that_does_not_count_is_told_from_none(
    dataset: Path, lock: Path, changed: dict[str, Any], word: str
) -> None:
    proven(dataset, "bad", **changed)
    result = trust("add", "bad")
    assert (result.exit_code, lock.exists()) == (1, False)
    assert word in result.output


def test_a_name_that_nobody_has_is_exit_code_1_and_the_nearest_is_named(dataset: Path) -> None:
    proven(dataset, "fast")
    result = trust("add", "fats")
    assert result.exit_code == 1
    assert "fats: the dataset holds no such solution (is fast meant?)" in result.output


def test_a_glob_that_matches_nothing_is_said_with_exit_code_0(dataset: Path) -> None:
    proven(dataset, "fast")
    result = trust("add", "zzz*")
    assert result.exit_code == 0
    assert "zzz*: the dataset holds no such solution" in result.output


def test_all_and_author_choose(dataset: Path, lock: Path) -> None:
    for name, author in (("a", "ann"), ("b", "bob"), ("c", "bob")):
        proven(dataset, made(name, author))
    assert trust("add", "--author", "bob").exit_code == 0
    assert names(lock) == ["b", "c"]
    assert trust("add", "a", "--author", "bob").exit_code == 1
    assert names(lock) == ["b", "c"]
    assert trust("add", "--all").exit_code == 0
    assert names(lock) == ["a", "b", "c"]


def test_nothing_asked_for_is_exit_code_2_and_trusts_nothing(dataset: Path, lock: Path) -> None:
    proven(dataset, "fast")
    result = trust("add")
    assert (result.exit_code, lock.exists()) == (2, False)
    assert "--all" in result.output


def test_unbenchmarked_lets_in_and_the_lock_says_so(dataset: Path, lock: Path) -> None:
    store(dataset, SILU, made("new"))
    result = trust("add", "new", "--unbenchmarked")
    assert result.exit_code == 0
    assert row(result.output, "new")[3] == "unbenchmarked"
    assert LockFile.read(lock).solutions[0].run == ""


def test_an_engines_own_op_is_never_added(dataset: Path, lock: Path) -> None:
    proven(dataset, "fast", made("engine_op", "engine"))
    result = trust("add", "--all", "--unbenchmarked")
    assert result.exit_code == 0
    assert "left out: engine_op" in result.output
    assert trust("add", "engine_op", "--unbenchmarked").exit_code == 1
    assert names(lock) == ["fast"]


def test_workloads_on_which_it_failed_are_noted(dataset: Path) -> None:
    proven(dataset, "fast")
    failed = measurement(made("fast"), {"num_tokens": 9}, status="RUNTIME_ERROR")
    append_measurements(dataset, SILU.op_type, [failed])
    result = trust("add", "fast")
    assert result.exit_code == 0
    assert "note: fast failed some workloads: RUNTIME_ERROR at num_tokens=9" in result.output


def test_adding_clears_the_quarantine_of_its_content_and_says_what_the_record_said(
    dataset: Path, tmp_path: Path
) -> None:
    proven(dataset, "fast", "other")
    quarantine = quarantined(tmp_path, "fast", content_hash(made("fast")))
    quarantined(tmp_path, "other", content_hash(made("other")))
    trust("add", "other")
    trust("add", "--all")
    quarantined(tmp_path, "fast", content_hash(made("fast")))
    result = trust("add", "fast")
    assert result.exit_code == 0
    assert re.search(r"cleared from quarantine: fast \w{12} solution_raised at M=4: boom", result.output)
    assert "was already" in row(result.output, SILU.name)
    assert quarantine.records() == []


def test_records_of_what_a_mended_solution_was_before_are_cleared_and_others_are_not(
    dataset: Path, tmp_path: Path
) -> None:
    proven(dataset, "fast", "other")
    trust("add", "other")
    quarantine = quarantined(tmp_path, "fast", "0" * 64)
    quarantined(tmp_path, "stranger", "1" * 64)
    quarantined(tmp_path, "fast", content_hash(made("other")))
    assert "fast 000000000000 solution_raised" in trust("add", "fast").output
    assert {record.hash for record in quarantine.records()} == {"1" * 64, content_hash(made("other"))}


def test_a_solution_that_is_refused_stays_in_quarantine(dataset: Path, tmp_path: Path) -> None:
    store(dataset, SILU, made("new"))
    quarantine = quarantined(tmp_path, "new", content_hash(made("new")))
    assert trust("add", "new").exit_code == 1
    assert len(quarantine.records()) == 1


def test_changed_content_takes_the_place_of_what_was_trusted(dataset: Path) -> None:
    proven(dataset, "fast")
    trust("add", "fast")
    before = content_hash(made("fast"))
    changed = solution(SILU, "fast", "\n# changed\n")
    store_again = store(dataset, SILU)
    store_again.add_solution(changed, replace=True)
    assert trust("add", "fast").exit_code == 1
    append_measurements(dataset, SILU.op_type, [measurement(changed, {"num_tokens": 4})])
    assert f"in place of {before[:12]}" in row(trust("add", "fast").output, SILU.name)


def test_a_broken_lock_is_not_touched_and_named(dataset: Path, lock: Path) -> None:
    proven(dataset, "fast")
    lock.write_text("[[solution")
    result = trust("add", "fast")
    assert (result.exit_code, lock.read_text()) == (1, "[[solution")
    assert f"{lock}:1" in result.output
    assert "Traceback" not in result.output


def test_lock_cache_and_dataset_can_be_named(dataset: Path, tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    proven(dataset, "fast")
    quarantine = quarantined(tmp_path, "fast", content_hash(made("fast")))
    environment.setenv("FIB_DATASET_PATH", "/no/such/place")
    environment.setenv("FIB_CACHE_PATH", "/no/such/place")
    assert trust("add", "fast").exit_code == 2
    other = tmp_path / "other.lock"
    arguments = ["--dataset", str(dataset), "--lock", str(other), "--cache", str(quarantine.folder.parent)]
    assert trust("add", "fast", *arguments).exit_code == 0
    assert names(other) == ["fast"]
    assert quarantine.records() == []


def test_two_that_add_at_once_are_both_in_the_lock(dataset: Path, lock: Path) -> None:
    proven(dataset, "a", "b")
    processes = [
        subprocess.Popen([sys.executable, "-m", "fib_plugin", "trust", "add", name], stdout=subprocess.DEVNULL)
        for name in ("a", "b")
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert names(lock) == ["a", "b"]


# ---- remove, list, verify -------------------------------------------------------------------------------------------


def test_removing_says_what_is_trusted_no_more(dataset: Path, lock: Path) -> None:
    proven(dataset, "a", "b_1", "b_2")
    trust("add", "--all")
    result = trust("remove", "b_*", content_hash(made("a"))[:8])
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines()] == ["a", "b_1", "b_2"]
    assert names(lock) == []


def test_removing_what_is_not_trusted_is_exit_code_1(lock: Path) -> None:
    result = trust("remove", "nobody")
    assert result.exit_code == 1
    assert "nobody: nothing trusted matches" in result.output
    assert not lock.exists()


def test_the_list_shows_who_trusted_what_and_what_is_quarantined(dataset: Path, tmp_path: Path) -> None:
    proven(dataset, "fast")
    trust("add", "fast")
    quarantined(tmp_path, "fast", content_hash(made("fast")))
    quarantined(tmp_path, "stranger", "f" * 64)
    result = trust("list")
    assert result.exit_code == 0
    cells = row(result.output, SILU.name)
    assert (cells[0], cells[2], cells[-1]) == ("fast", "test", "solution_raised")
    assert "quarantined: stranger ffffffffffff solution_raised at M=4: boom" in result.output


def test_the_list_as_json_is_one_object(dataset: Path, lock: Path, tmp_path: Path) -> None:
    proven(dataset, "fast", run="run-7")
    trust("add", "fast")
    quarantined(tmp_path, "fast", content_hash(made("fast")))
    content = json.loads(trust("list", "--json").stdout)
    assert content["lock"] == str(lock)
    (entry,) = content["solutions"]
    assert (entry["name"], entry["hash"], entry["run"]) == ("fast", content_hash(made("fast")), "run-7")
    assert content["quarantined"][0]["axes"] == {"M": 4}
    assert content["problems"] == []


def test_listing_nothing_says_how_to_trust_something() -> None:
    result = trust("list")
    assert result.exit_code == 0
    assert "fib trust add" in result.output


def test_listing_a_broken_lock_is_exit_code_1(lock: Path) -> None:
    lock.write_text("x = ")
    assert str(lock) in trust("list").output
    result = trust("list", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"][0]["line"] == 1


def tamper(dataset: Path) -> None:
    (file,) = (dataset / "solutions").rglob("fast.json")
    text = file.read_text()
    assert "# fast" in text
    file.write_text(text.replace("# fast", "# fasT"))


def test_verify_tells_one_changed_byte_and_where(dataset: Path) -> None:
    proven(dataset, "fast", "other")
    trust("add", "--all")
    assert trust("verify").exit_code == 0
    tamper(dataset)
    result = trust("verify")
    assert result.exit_code == 1
    assert row(result.output, "fast")[2:] == ["changed", "main.py changed"]
    assert row(result.output, "other")[2] == "ok"
    assert "1 ok, 1 changed" in result.output


def test_verify_as_json_is_one_object(dataset: Path) -> None:
    proven(dataset, "fast", "gone")
    trust("add", "--all")
    tamper(dataset)
    next((dataset / "solutions").rglob("gone.json")).unlink()
    result = trust("verify", "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["counts"] == {"ok": 0, "changed": 1, "missing": 1}
    assert [(one["name"], one["state"]) for one in content["solutions"]] == [("fast", "changed"), ("gone", "missing")]


def test_a_solution_that_is_gone_is_told_with_exit_code_0(dataset: Path) -> None:
    proven(dataset, "gone")
    trust("add", "--all")
    next((dataset / "solutions").rglob("gone.json")).unlink()
    result = trust("verify")
    assert result.exit_code == 0
    assert row(result.output, "gone")[2] == "missing"


def test_verify_needs_a_dataset(dataset: Path) -> None:
    result = trust("verify", "--json")
    assert result.exit_code == 2
    assert "--dataset" in json.loads(result.stdout)["problems"][0]["remedy"]


def test_an_unusable_setting_is_one_clear_line(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FIB_STRICT", "perhaps")
    result = trust("list")
    assert result.exit_code == 2
    assert "FIB_STRICT" in result.output
    assert "Traceback" not in result.output
