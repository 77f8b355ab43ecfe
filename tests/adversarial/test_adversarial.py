"""No cheat passes, each fails for the reason that its file declares, and every honest solution passes."""

from __future__ import annotations

import os
import shutil

import pytest

from adversarial import table
from adversarial.gaps import UNCAUGHT, UNTAGGED
from adversarial.room import Entry, entries
from adversarial.trial import Fate, bench_all, named, stopped

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("c++") is None, reason="some solutions are C++"),
]


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fate]:
    return bench_all(tmp_path_factory.mktemp("adversarial"))


def _cheats(gaps: dict[str, str]) -> list[object]:
    chosen = [entry for entry in entries() if entry.cheats]
    return [pytest.param(entry, id=entry.file.stem, marks=_marks(entry, gaps)) for entry in chosen]


def _marks(entry: Entry, gaps: dict[str, str]) -> list[pytest.MarkDecorator]:
    reason = gaps.get(entry.file.stem)
    return [pytest.mark.xfail(strict=True, reason=reason)] if reason else []


def _fate(fates: dict[str, Fate], entry: Entry) -> Fate:
    if entry.name not in fates:
        pytest.skip(f"needs {entry.needs}")
    return fates[entry.name]


@pytest.mark.parametrize("entry", _cheats(UNCAUGHT))
def test_a_cheat_gets_nothing(fates: dict[str, Fate], entry: Entry) -> None:
    fate = _fate(fates, entry)

    assert stopped(entry, fate), f"{entry.tries}\n{fate}"


@pytest.mark.parametrize("entry", _cheats({**UNTAGGED, **UNCAUGHT}))
def test_a_cheat_is_told_what_was_seen(fates: dict[str, Fate], entry: Entry) -> None:
    fate = _fate(fates, entry)

    assert named(entry, fate), f"expected one of {entry.fouls}\n{fate}"


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.file.stem) for entry in entries() if not entry.cheats])
def test_an_honest_solution_is_accepted(fates: dict[str, Fate], entry: Entry) -> None:
    fate = _fate(fates, entry)

    assert fate.status == "PASSED", f"{entry.tries}\n{fate}"


def test_there_are_enough_of_both() -> None:
    cheats = [entry for entry in entries() if entry.cheats]

    assert len(cheats) >= 25
    assert len(entries()) - len(cheats) >= 25


def test_the_readme_tells_how_the_run_went(fates: dict[str, Fate]) -> None:
    made = table.render(fates)
    if os.environ.get("FIB_WRITE_TABLES"):
        table.README.write_text(made)

    written = table.README.read_text() if table.README.exists() else ""
    assert table.same(written, made), "run again with FIB_WRITE_TABLES=1 and commit the README"
