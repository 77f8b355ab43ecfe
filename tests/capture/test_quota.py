"""The quota counts what all processes put into the dataset folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fib_plugin.capture.loss import QuotaReached
from fib_plugin.capture.quota import Quota


def fill(root: Path, name: str, size: int) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_bytes_of_earlier_runs_count(tmp_path: Path) -> None:
    fill(tmp_path, "blob/workloads/op/d/a.safetensors", 600)
    fill(tmp_path, "workloads/op/d.jsonl", 300)
    quota = Quota(tmp_path, 1000)
    quota.step()
    assert quota.used == 900
    quota.check(100)
    with pytest.raises(QuotaReached):
        quota.check(101)


def test_own_bytes_count_at_once(tmp_path: Path) -> None:
    quota = Quota(tmp_path, 1000)
    quota.step()
    quota.add(950)
    with pytest.raises(QuotaReached):
        quota.check(51)


def test_a_walk_goes_on_in_slices(tmp_path: Path) -> None:
    for number in range(5):
        fill(tmp_path, f"blob/{number}/f", 10)
    quota = Quota(tmp_path, 1000)
    quota.step(files=2)
    assert quota.used == 0
    quota.step(files=2)
    quota.step(files=2)
    assert quota.used == 50


def test_room_made_by_others_is_found_once_the_quota_is_reached(tmp_path: Path) -> None:
    path = fill(tmp_path, "blob/f", 1000)
    quota = Quota(tmp_path, 1000, when_full=0.0)
    quota.step()
    with pytest.raises(QuotaReached):
        quota.check(1)
    path.unlink()
    quota.step()
    quota.check(1000)


def test_without_a_limit_nothing_is_walked(tmp_path: Path) -> None:
    fill(tmp_path, "blob/f", 1000)
    quota = Quota(tmp_path, None)
    quota.step()
    quota.check(1 << 60)
    assert quota.used == 0
