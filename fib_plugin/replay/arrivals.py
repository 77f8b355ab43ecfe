"""Arrivals: a request-trace CSV in the Azure 2023 format as seconds and token counts, scaled to what is to be sent."""

from __future__ import annotations

import csv
import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIME, PROMPT, OUTPUT = "TIMESTAMP", "ContextTokens", "GeneratedTokens"
#: Date and time, then a fraction of any length: the traces have seven digits, which datetime does not take.
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:?00)?")


class TraceError(ValueError):
    """A request trace that cannot be used; the message names file, field and remedy."""

    def __init__(self, what: str, file: Path, field: str = "", line: int | None = None, remedy: str = "") -> None:
        where = f"{file}" if line is None else f"{file}, line {line}"
        told = f", column {field}" if field else ""
        super().__init__(f"{where}{told}: {what}" + (f" ({remedy})" if remedy else ""))


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds after the first one, and how many tokens go in and come out."""

    at: float
    prompt_tokens: int
    output_tokens: int


def read_arrivals(file: Path) -> list[Arrival]:
    """Every request of the trace in the order of arrival; the first is at 0.

    Raises:
        TraceError: no such file, a missing column, a value that is no time or no number, or no request at all.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in (TIME, PROMPT, OUTPUT) if name not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                raise TraceError(
                    f"the column is missing; the first line names {found}",
                    file,
                    ", ".join(missing),
                    remedy=f"the first line must name {TIME}, {PROMPT} and {OUTPUT}",
                )
            rows = [
                Arrival(
                    _seconds(row[TIME], file, reader.line_num),
                    _tokens(row, PROMPT, file, reader.line_num),
                    _tokens(row, OUTPUT, file, reader.line_num),
                )
                for row in reader
            ]
    except FileNotFoundError:
        raise TraceError("no such file", file, remedy="name a CSV file of requests") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"cannot be read: {error}", file, remedy="name a CSV file of requests") from error
    if not rows:
        raise TraceError("holds no request", file, remedy="every line after the first is one request")
    rows.sort(key=lambda row: row.at)
    first = rows[0].at
    return [Arrival(row.at - first, row.prompt_tokens, row.output_tokens) for row in rows]


def scaled(
    arrivals: Sequence[Arrival],
    *,
    rate: float = 1.0,
    requests: int | None = None,
    scale_lengths: float = 1.0,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
) -> list[Arrival]:
    """What is to be sent: the first ``requests`` arrivals, ``rate`` times as fast, with lengths scaled, then cut.

    A length is never scaled below one token. An infinite rate sends everything at once.
    """

    def length(tokens: int, most: int | None) -> int:
        return max(1, min(round(tokens * scale_lengths), math.inf if most is None else most))  # type: ignore[return-value]

    return [
        Arrival(
            0.0 if math.isinf(rate) else arrival.at / rate,
            length(arrival.prompt_tokens, max_prompt_tokens),
            length(arrival.output_tokens, max_output_tokens),
        )
        for arrival in arrivals[:requests]
    ]


def _seconds(value: str | None, file: Path, line: int) -> float:
    match = _STAMP.fullmatch((value or "").strip())
    try:
        if match is None:
            raise ValueError
        whole = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00")
    except ValueError:
        remedy = "times look like 2023-11-16 18:15:46.6805900"
        raise TraceError(f"{value!r} is no time", file, TIME, line, remedy) from None
    return whole.timestamp() + float(match[3] or 0)


def _tokens(row: dict[str, str], field: str, file: Path, line: int) -> int:
    try:
        count = int(row[field])
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        raise TraceError(f"{row[field]!r} is no number of tokens", file, field, line, "0 or more")
    return count
