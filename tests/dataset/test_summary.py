"""What `stats` counts."""

from sample_dataset import NAME, TRACES, WORKLOADS, Dataset

from fib_plugin.dataset import DefinitionStats, stats


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
        DefinitionStats("other", "gather", workloads=0, calls=30, share=0.75, solutions=0, traces=0),
        DefinitionStats(NAME, "gather", workloads=2, calls=10, share=0.25, solutions=1, traces=3),
    ]


def test_records_of_an_unreadable_definition_are_counted(dataset: Dataset) -> None:
    dataset.lines(WORKLOADS, dataset.workload("w1"))
    dataset.document(f"definitions/gather/{NAME}.json", {})
    rows, problems = stats(dataset.root)
    assert rows == [DefinitionStats(NAME, "?", workloads=1, calls=0, share=0.0, solutions=0, traces=0)]
    assert problems
