"""A plan that hangs or faults costs seconds and is named, and no other is blamed."""

from __future__ import annotations

import sys

import pytest
import tune_trial


def child(*says: str) -> str:
    """A process in place of the one that runs plans: it says this, then what the last word tells."""
    endings = {
        "hangs": "time.sleep(60)",
        "faults": f"sys.exit({tune_trial.FAULTED})",
        "dies": "sys.exit(1)",
        "ends": "",
    }
    *lines, end = says
    return f"import sys, time\nfor line in {lines}: print(line, flush=True)\n{endings[end]}"


def test_a_plan_that_hangs_faults_or_is_wrong_is_left_out_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        "abcdefg": child("ready", '{"a": null}', "hangs"),  # in b
        "cdefg": child("ready", '{"c": "wrong"}', '{"d": "an illegal address"}', "faults"),
        "efg": child("ready", '{"e": null}', "dies"),  # in f
        "g": child("ready", '{"g": null}', "ends"),
    }
    monkeypatch.setattr(tune_trial, "ONCE_S", 3.0)
    assert tune_trial.trial(list("abcdefg"), lambda left: [sys.executable, "-c", runs["".join(left)]]) == {
        "b": "ran for 3 s",
        "c": "wrong",
        "d": "an illegal address",
        "f": "died with status 1",
    }
