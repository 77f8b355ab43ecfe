"""Sides: the same environment but for our switches, and what the plugin reported of the on side."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fib_plugin.compare.sides import OFF, ON, Done, done_since, environments
from fib_plugin.dataset.layout import this_host


def test_off_is_the_kill_switch_and_on_applies_where_nothing_is_asked() -> None:
    found = environments({"HOME": "/h"})
    assert found == {OFF: {"HOME": "/h", "FIB_DISABLE": "1"}, ON: {"HOME": "/h", "FIB_ENABLE_APPLY": "1"}}


def test_the_switches_of_the_environment_decide_and_options_overrule_them() -> None:
    assert environments({"FIB_ENABLE_TRACING": "1"})[ON] == {"FIB_ENABLE_TRACING": "1"}
    found = environments({"FIB_ENABLE_APPLY": "1", "FIB_DISABLE": "1"}, apply=False, tracing=True)
    assert found[ON] == {"FIB_ENABLE_APPLY": "0", "FIB_ENABLE_TRACING": "1"}
    assert found[OFF]["FIB_DISABLE"] == "1"


def test_both_sides_have_the_dataset() -> None:
    found = environments({}, dataset=Path("/d"))
    assert {side["FIB_DATASET_PATH"] for side in found.values()} == {"/d"}


def status(cache: Path, started: float, **of: Any) -> None:
    folder = cache / "status"
    folder.mkdir(exist_ok=True, parents=True)
    content = {"version": 1, "pid": os.getpid(), "host": this_host(), "started": started, "updated": time.time(), **of}
    (folder / f"{started}.json").write_text(json.dumps(content))


def test_only_processes_of_the_comparison_count(tmp_path: Path) -> None:
    ops = {"vllm.gemm": {"calls": 10, "substituted": 6, "fallbacks": {"not_faster": 4}}}
    status(tmp_path, 50.0, ops=ops)
    status(tmp_path, 150.0, ops=ops, capture={"written": 3})
    status(tmp_path, 160.0, ops=ops)
    assert done_since(100.0, tmp_path) == Done(2, 20, 12, 3, {"not_faster": 8})
    assert done_since(100.0, tmp_path / "absent") == Done(0, 0, 0, 0, {})


@pytest.mark.parametrize(
    ("done", "environment", "word"),
    [
        (Done(0, 0, 0, 0, {}), {"FIB_ENABLE_APPLY": "1"}, "the plugin did not run"),
        (Done(1, 9, 0, 0, {"not_trusted": 9}), {"FIB_ENABLE_APPLY": "1"}, "not_trusted 9"),
        (Done(1, 9, 3, 0, {}), {"FIB_ENABLE_APPLY": "1"}, None),
        (Done(1, 9, 0, 3, {}), {"FIB_ENABLE_TRACING": "1"}, None),
    ],
)
def test_a_comparison_in_which_nothing_was_substituted_says_so(
    done: Done, environment: dict[str, str], word: str | None
) -> None:
    doubt = done.doubt(environment)
    assert doubt is None if word is None else word in (doubt or "")
