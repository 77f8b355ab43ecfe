"""The decode comparison's report: sections are kept as they come, and those of other runs stay."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fib_plugin.dispatch.trust import Trust

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("gpu_decode")
    finally:
        sys.path.remove(str(SCRIPTS))


def options(**of: object) -> argparse.Namespace:
    usual = {"tiny": True, "layers": 2, "eager": False, "sampling": False, "adapters": "a", "margin": 0.0, "up_to": 8}
    return argparse.Namespace(**{**usual, **of})


def test_each_phase_is_on_disk_when_it_ends_and_other_sections_stay(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "reports" / "gpu.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"watermarked": {"gemm": "ok"}, "decode": {"old": 1}}))
    report = script.Report(file, options())
    report.add("capture", captured={"written": 3})
    first = json.loads(file.read_text())
    report.add("bench", bench={"trusted": []})
    second = json.loads(file.read_text())
    assert first["watermarked"] == second["watermarked"] == {"gemm": "ok"}
    assert first["decode"]["captured"] == {"written": 3}
    assert "old" not in first["decode"]
    assert set(second["decode"]["seconds"]) == {"capture", "bench"}


def test_solutions_are_trusted_up_to_the_rows_that_are_asked_for(script: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "fib.lock"
    lock.write_text('[[solution]]\nname = "a"\nhash = "1234"\nrun = "r"\n')
    limited = script.limited(lock, 16, tmp_path)
    trust = Trust.load(limited)
    assert trust.refusal("a", "1234") is None
    assert trust.beyond("1234", {"M": 17})
    assert trust.beyond("1234", {"batch_size": 17})
    assert not trust.beyond("1234", {"M": 16})
    assert script.limited(lock, None, tmp_path) == lock


def test_a_report_that_cannot_be_read_is_written_anew(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text("{")
    script.Report(file, options()).add("capture", captured={})
    assert list(json.loads(file.read_text())) == ["decode"]


class Said:
    """An engine that remembers what it was asked for."""

    def __init__(self, off: float) -> None:
        self.off = off
        self.asked: list[tuple[object, ...]] = []

    def ask(self, *what: object) -> dict[str, object]:
        self.asked.append(what)
        together = what[-1]
        off = self.off + (0.01 if together != what[1] else 0.0)
        return {"tokens": [[1, 2]], "logprobs": [[-1.0 - off, -2.0]], "margins": [[0.5, 0.5]]}


@pytest.mark.parametrize(
    ("batch", "most", "others"), [(1, 64, [2]), (4, 64, [2, 5]), (64, 64, [32]), (1, 1, [1])], ids=str
)
def test_stock_is_asked_again_in_batches_of_other_sizes(
    script: ModuleType, batch: int, most: int, others: list[int]
) -> None:
    stock, applied = Said(0.0), Said(0.015)
    found = script.agree(stock, applied, batch, most)
    assert [asked[-1] for asked in stock.asked] == [batch, *others]
    assert [asked[-1] for asked in applied.asked] == [batch]
    assert found["ok"]
    assert found["apply"]["max"] == 0.015


def test_every_option_of_the_prepared_part_is_one_that_the_script_takes(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [
        "--part",
        "bench",
        "--dataset",
        "d",
        "--lock",
        "l",
        "--batches",
        "1,4",
        "--bench-budget",
        "5",
        "--solutions",
        "a*",
    ]
    monkeypatch.setattr(sys, "argv", ["gpu_decode.py", *given])
    taken = script.arguments()
    assert (taken.part, taken.batches, taken.bench_budget, taken.solutions) == ("bench", [1, 4], 5.0, ["a*"])
