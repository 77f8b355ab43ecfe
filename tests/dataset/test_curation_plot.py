"""What the histograms of a curation show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sample_dataset import NAME, WORKLOADS, Dataset

from fib_plugin.dataset.curating import curate
from fib_plugin.dataset.curation_plot import histograms, plot_curation


@pytest.fixture
def curated(dataset: Dataset) -> Dataset:
    dataset.lines(WORKLOADS, *(dataset.workload(f"w{m}", m=m) for m in range(1, 8)))
    calls = {NAME: {'{"m":3,"n":8}': 5, '{"m":70,"n":8}': 2}}
    dataset.document("fib/counts/h.1.1.json", {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": calls})
    return dataset


def test_workloads_before_and_after_and_calls_are_counted_by_size_class(curated: Dataset) -> None:
    (row,) = curate(curated.root, keep=3, dry_run=True).rows
    (axis,) = histograms(row)
    assert axis == {"before": {1: 1, 2: 2, 3: 4}, "after": {1: 1, 2: 1, 3: 1}, "calls": {2: 5, 7: 2}}


def test_a_plot_is_a_png_that_needs_no_display(
    curated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    monkeypatch.delenv("DISPLAY", raising=False)
    (file,) = plot_curation(curate(curated.root, keep=3, dry_run=True), tmp_path / "plots")
    assert file.name == f"gather_{NAME}.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


def test_without_workloads_nothing_is_plotted(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fib_plugin.dataset.curation_plot.check_plotting", lambda: None)
    assert plot_curation(curate(dataset.root, dry_run=True), tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()
