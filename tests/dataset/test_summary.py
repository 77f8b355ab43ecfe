"""What `stats` counts."""

from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import DefinitionStats, Measurement, append_measurements, stats


def measured(definition: str, m: int, ms: float) -> Measurement:
    return Measurement(
        run="r", definition=definition, axes={"n": 8, "m": m}, workload="w", solution="s", solution_hash="h",
        status="PASSED", hardware="gpu", libs={}, timestamp="t", baseline_ms=ms,
    )  # fmt: skip


def test_rows_count_each_kind_and_the_share_of_calls(dataset: Dataset) -> None:
    dataset.definition("other")
    dataset.solution()
    dataset.lines(WORKLOADS, dataset.workload("w1"), dataset.workload("w2", m=3))
    dataset.lines(TRACES, dataset.trace(), dataset.trace(), dataset.trace())
    calls = {"other": {"a": 10, "b": 20}, NAME: {"a": 10}}
    dataset.document("fib/counts/h.1.1.json", {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": calls})
    rows, problems = stats(dataset.root)
    assert problems == []
    assert rows == [
        DefinitionStats("other", "gather", workloads=0, calls=30, share=0.75, solutions=0, traces=0, shapes=2),
        DefinitionStats(NAME, "gather", workloads=2, calls=10, share=0.25, solutions=1, traces=3, shapes=3),
    ]


def test_records_of_an_unreadable_definition_are_counted(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.workload("w1"))
    dataset.document(f"definitions/gather/{NAME}.json", {})
    rows, problems = stats(dataset.root)
    assert rows == [DefinitionStats(NAME, "?", workloads=1, calls=0, share=0.0, solutions=0, traces=0, shapes=1)]
    assert problems


def counted(dataset: Dataset, calls: dict[str, dict[str, int]]) -> None:
    dataset.document("fib/counts/h.1.1.json", {"version": 1, "host": "h", "pid": 1, "started": 1, "calls": calls})


def test_shapes_are_different_axes_whether_captured_or_only_counted(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.indexed("w1", (0, 1)), dataset.indexed("w2", (1, 0)), dataset.workload("w3", m=3))
    counted(dataset, {NAME: {'{"m":2,"n":8}': 1, '{"m":9,"n":8}': 1}})
    ((row,), _) = stats(dataset.root)
    assert (row.workloads, row.shapes) == (3, 3)


def test_the_share_of_time_is_that_of_the_measured_definitions(dataset: Dataset) -> None:
    dataset.definition("other")
    dataset.definition("unmeasured")
    calls = {NAME: {'{"m":2,"n":8}': 30, '{"m":64,"n":8}': 10}, "other": {'{"m":1,"n":8}': 10}}
    counted(dataset, {**calls, "unmeasured": {'{"m":1,"n":8}': 99}})
    for name, m, ms in ((NAME, 2, 1.0), (NAME, 100, 3.0), ("other", 1, 6.0)):
        append_measurements(dataset.root, "gather", [measured(name, m, ms)])
    rows = {row.definition: row.time_share for row in stats(dataset.root)[0]}
    assert rows == {NAME: 0.5, "other": 0.5, "unmeasured": None}
