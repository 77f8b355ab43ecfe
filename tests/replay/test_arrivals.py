"""A trace is read as it was recorded, scaled as asked, and a wrong one is named with its line and column."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from fib_plugin.replay.arrivals import Arrival, TraceError, read_arrivals, scaled

EXCERPT = Path(__file__).parents[2] / "scripts" / "data" / "azure_llm_2023_excerpt.csv"
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def trace(folder: Path, text: str) -> Path:
    file = folder / "trace.csv"
    file.write_text(text)
    return file


def test_times_are_seconds_since_the_first_request(tmp_path: Path) -> None:
    file = trace(tmp_path, HEAD + "2023-11-16 23:59:59.6805900,374,44\n2023-11-17 00:00:01.1805900,396,109\n")
    first, second = read_arrivals(file)
    assert first == Arrival(0.0, 374, 44)
    assert second.at == pytest.approx(1.5, abs=1e-6)
    assert (second.prompt_tokens, second.output_tokens) == (396, 109)


def test_requests_are_sorted_by_time_as_two_traces_in_one_file_need(tmp_path: Path) -> None:
    file = trace(tmp_path, HEAD + "2023-11-16 18:00:05,2,2\n2023-11-16 18:00:01.5,1,1\n")
    assert [arrival.prompt_tokens for arrival in read_arrivals(file)] == [1, 2]


def test_times_of_the_later_traces_with_a_zone_are_read(tmp_path: Path) -> None:
    file = trace(tmp_path, HEAD + "2024-05-10 00:00:00.009930+00:00,2,2\n2024-05-10 00:00:00.019930+00:00,1,1\n")
    assert read_arrivals(file)[1].at == pytest.approx(0.01, abs=1e-6)


def test_real_requests_are_read_whole() -> None:
    arrivals = read_arrivals(EXCERPT)
    assert len(arrivals) == 200
    assert arrivals[0] == Arrival(0.0, 374, 44)
    assert arrivals[1].at == pytest.approx(49.660912, abs=1e-5)
    assert all(before.at <= after.at for before, after in itertools.pairwise(arrivals))


def test_a_rate_of_two_halves_the_times(tmp_path: Path) -> None:
    arrivals = [Arrival(0.0, 10, 10), Arrival(3.0, 10, 10)]
    assert [arrival.at for arrival in scaled(arrivals, rate=2)] == [0.0, 1.5]
    assert [arrival.at for arrival in scaled(arrivals, rate=math.inf)] == [0.0, 0.0]


def test_lengths_are_scaled_then_cut_and_never_zero() -> None:
    arrivals = [Arrival(0.0, 1000, 100), Arrival(0.0, 30, 0)]
    assert scaled(arrivals, scale_lengths=0.1, max_prompt_tokens=64, max_output_tokens=8) == [
        Arrival(0.0, 64, 8),
        Arrival(0.0, 3, 1),
    ]


def test_only_the_first_requests_are_taken() -> None:
    arrivals = [Arrival(float(second), 1, 1) for second in range(5)]
    assert scaled(arrivals, requests=2) == arrivals[:2]
    assert scaled(arrivals, requests=9) == arrivals


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TIMESTAMP,ContextTokens\n", "column GeneratedTokens: the column is missing"),
        ("", "names nothing"),
        (HEAD, "holds no request"),
        (HEAD + "2023-11-16 18:15:46.6,3,4\nyesterday,3,4\n", "line 3, column TIMESTAMP: 'yesterday' is no time"),
        (HEAD + "2023-13-46 18:15:46,3,4\n", "line 2, column TIMESTAMP"),
        (HEAD + "2023-11-16 18:15:46.6,many,4\n", "line 2, column ContextTokens: 'many' is no number of tokens"),
        (HEAD + "2023-11-16 18:15:46.6,3,-4\n", "line 2, column GeneratedTokens: '-4'"),
        (HEAD + "2023-11-16 18:15:46.6,3\n", "line 2, column GeneratedTokens: None"),
    ],
)
def test_a_wrong_trace_is_named_with_line_and_column(tmp_path: Path, text: str, told: str) -> None:
    file = trace(tmp_path, text)
    with pytest.raises(TraceError) as caught:
        read_arrivals(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: no such file"):
        read_arrivals(tmp_path / "nowhere.csv")


def test_a_folder_or_something_binary_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_arrivals(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TraceError, match="cannot be read"):
        read_arrivals(tmp_path / "binary")
