"""`fib doctor` on hooks and on trust: do targets fit, what would run if it were trusted, can the lock be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_engine
from proven import prove, silu, solution, store, trust
from typer.testing import CliRunner

from fib_plugin.adapter import Target
from fib_plugin.cli import app
from fib_plugin.cli.doctor import _misfits
from fib_plugin.dispatch.quarantine import Quarantine, Record
from fib_plugin.doctor import Hook, look_at_hooks


@pytest.fixture(autouse=True)
def place(adapters: Callable[..., None], environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COLUMNS", "200")


def doctor() -> dict[str, Any]:
    result = CliRunner().invoke(app, ["doctor", "--no-hooks", "--json"])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def told(report: dict[str, Any], word: str) -> bool:
    return any(word in problem for problem in report["problems"])


def test_winners_that_are_not_trusted_are_named_until_they_are(dataset: Path, tmp_path: Path) -> None:
    made = prove(dataset, silu())
    (tmp_path / "fib.lock").unlink()
    store(dataset, silu(), solution(silu(), "unproven", "\n# unproven\n"))
    report = doctor()
    assert report["trust"]["untrusted"] == ["fast"]
    assert told(report, "fib trust add")
    trust(dataset, made)
    report = doctor()
    assert (report["trust"]["untrusted"], report["trust"]["trusted"], report["trust"]["exists"]) == ([], 1, True)
    assert not told(report, "fib trust add")


def test_a_broken_lock_is_a_problem_that_names_it(dataset: Path, tmp_path: Path) -> None:
    prove(dataset, silu())
    (tmp_path / "fib.lock").write_text("x =")
    report = doctor()
    assert str(tmp_path / "fib.lock") in report["trust"]["problem"]
    assert told(report, "nothing is trusted")


def test_a_lock_that_anyone_may_write_is_a_problem(dataset: Path, tmp_path: Path) -> None:
    lock = tmp_path / "fib.lock"
    lock.write_text("")
    lock.chmod(0o644)
    assert not told(doctor(), "chmod")
    lock.chmod(0o666)
    assert told(doctor(), "chmod o-w")


def test_measurements_of_other_hardware_are_said_to_decide(environment: pytest.MonkeyPatch) -> None:
    assert not told(doctor(), "FIB_APPLY_ANY_HARDWARE")
    environment.setenv("FIB_APPLY_ANY_HARDWARE", "1")
    report = doctor()
    assert report["trust"]["any_hardware"]
    assert told(report, "FIB_APPLY_ANY_HARDWARE")


def test_flashinfers_own_substitution_beside_ours_is_said(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FLASHINFER_TRACE_APPLY", "1")
    assert not told(doctor(), "FLASHINFER_TRACE_APPLY")
    environment.setenv("FIB_ENABLE_APPLY", "1")
    assert told(doctor(), "FLASHINFER_TRACE_APPLY")
    environment.setenv("FLASHINFER_TRACE_APPLY", "0")
    assert not told(doctor(), "FLASHINFER_TRACE_APPLY")


def test_quarantined_solutions_are_counted(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "cache" / "quarantine")
    for hardware in ("here", "there"):
        quarantine.add(Record(solution="s", definition="d", hash="abc", reason="wrong_here", hardware=hardware))
    assert doctor()["trust"]["quarantined"] == 1


def test_the_report_for_people_has_a_section_on_trust(dataset: Path, tmp_path: Path) -> None:
    prove(dataset, silu())
    output = CliRunner().invoke(app, ["doctor", "--no-hooks"]).output
    assert f"{tmp_path / 'fib.lock'}: 1 trusted" in output
    assert "proven here, not trusted" in output


@pytest.mark.parametrize(
    ("targets", "states"),
    [
        (
            (Target("toy.ops:plan", "wrap", "<2", params=("x", "scale")), Target("toy.ops:new", "wrap", ">=2")),
            ("found", "for other versions"),
        ),
        ((Target("toy.ops:old", "wrap", "<1"), Target("toy.ops:new", "wrap", ">=2")), ("version differs",) * 2),
        (
            (Target("toy.ops:plan", "wrap", params=("x",)), Target("toy.ops:gone", "wrap")),
            ("signature differs", "missing"),
        ),
        ((Target("toy.ops:gone", "wrap", optional=True),), ("optional",)),
    ],
)
def test_a_target_for_other_versions_is_a_problem_only_where_no_other_fits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapters: Callable[..., None],
    targets: tuple[Target, ...],
    states: tuple[str, ...],
) -> None:
    adapters([toy_engine.adapter(targets=targets)])
    for _ in toy_engine.engine(tmp_path / "site", monkeypatch):
        assert tuple(hook.state for hook in look_at_hooks("toy")) == states


@pytest.mark.parametrize(
    ("states", "wrong"),
    [
        (("found", "for other versions", "optional"), False),
        (("found", "version differs"), False),
        (("version differs", "version differs"), True),
        (("found", "missing"), True),
        (("found", "signature differs"), True),
    ],
)
def test_a_hook_that_does_not_fit_is_an_error_and_one_op_too_few_in_this_version_is_none(
    states: tuple[str, ...], wrong: bool
) -> None:
    other = Hook("other.op", "other.ops:f", "found")
    assert _misfits([*(Hook(f"toy.op{n}", "toy.ops:f", state) for n, state in enumerate(states)), other]) is wrong


def test_a_module_that_fails_to_import_in_its_own_way_is_a_missing_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: Callable[..., None]
) -> None:
    targets = tuple(Target("asks_for_a_device:f", "wrap", optional=optional) for optional in (True, False))
    adapters([toy_engine.adapter(targets=targets)])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "asks_for_a_device.py").write_text("assert False, 'no device'\n")
    for _ in toy_engine.engine(tmp_path / "site", monkeypatch):
        assert [hook.state for hook in look_at_hooks("toy")] == ["optional", "missing"]
