"""`fib replay`: sends the requests of a trace at an engine as they once arrived, and says how it coped."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fib_plugin.replay.answer import Answer
    from fib_plugin.replay.arrivals import Arrival
    from fib_plugin.replay.summary import Latency, Summary

_INTERRUPTED = 130
_ROWS = {
    "ttft": "time to first token",
    "inter_token": "inter-token",
    "end_to_end": "end to end",
    "late": "sent after its time",
}


class Sender(str, Enum):
    """What sends a request and times its answer."""

    OWN = "own"
    VLLM = "vllm"


def replay(
    trace: Annotated[Path, typer.Argument(help="CSV file: TIMESTAMP, ContextTokens, GeneratedTokens (Azure 2023).")],
    url: Annotated[str, typer.Option("--url", help="OpenAI-compatible endpoint, with /v1.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Served name.", show_default="the first that the endpoint serves")
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", help="Speed of time: 2 sends twice as fast as the trace; inf, all at once.")
    ] = 1.0,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Only the first N.")] = None,
    scale_lengths: Annotated[
        float, typer.Option("--scale-lengths", help="Multiply prompt and output lengths by this.")
    ] = 1.0,
    max_prompt_tokens: Annotated[
        int | None, typer.Option("--max-prompt-tokens", min=1, help="Cut longer prompts.")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option("--max-output-tokens", min=1, help="Cut longer outputs.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Most requests under way.", show_default="no bound")
    ] = None,
    vocab: Annotated[
        int | None, typer.Option("--vocab", min=1, help="Prompts hold token ids below it.", show_default="asked for")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the prompts' token ids.")] = 0,
    body: Annotated[
        str, typer.Option("--body", help='Further fields of each request: \'{"temperature": 0.8, "top_p": 0.9}\'.')
    ] = "{}",
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that one answer may take.")] = 600.0,
    client: Annotated[
        Sender, typer.Option("--client", help="What sends and times a request: ours, or what `vllm bench serve` uses.")
    ] = Sender.OWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Replay a request trace at an engine: real arrival times and lengths, random tokens. OPENAI_API_KEY is sent along.

    The exit code is 1 when a request failed, 2 when nothing could be sent, 130 after Ctrl-C, which still prints the
    summary of what came so far.
    """
    from fib_plugin.replay.arrivals import TraceError, read_arrivals, scaled

    if not (rate > 0 and scale_lengths > 0):
        _fail("--rate and --scale-lengths take numbers above 0", as_json)
    fields = _fields(body, as_json)
    try:
        arrivals = scaled(
            read_arrivals(trace),
            rate=rate,
            requests=requests,
            scale_lengths=scale_lengths,
            max_prompt_tokens=max_prompt_tokens,
            max_output_tokens=max_output_tokens,
        )
    except TraceError as error:
        _fail(str(error), as_json)
    if vocab is None:
        if not sys.stdin.isatty():
            _fail("--vocab is missing: how many token ids the model has (vocab_size in its config.json)", as_json)
        vocab = typer.prompt("How many token ids has the model (vocab_size in its config.json)?", type=int, err=True)
    options: dict[str, Any] = {"vocabulary": vocab, "seed": seed, "body": fields, "timeout": timeout}
    summary = _run(client, url, model, arrivals, concurrency, options, as_json)
    if as_json:
        typer.echo(json.dumps({"trace": str(trace), "url": url, "client": client.value, **summary.to_dict()}))
    else:
        _show(summary)
    if summary.interrupted:
        raise typer.Exit(_INTERRUPTED)
    raise typer.Exit(1 if summary.failures else 0)


def _run(
    sender: Sender,
    url: str,
    model: str | None,
    arrivals: list[Arrival],
    concurrency: int | None,
    options: dict[str, Any],
    as_json: bool,
) -> Summary:
    try:
        from fib_plugin.replay.client import Client, EndpointError
        from fib_plugin.replay.replay import Replay
        from fib_plugin.replay.vllm_client import VllmClient
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed (pip install 'fib-plugin[replay]')", as_json)
    errors = Console(stderr=True)
    bar = Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=as_json,
    )
    task = bar.add_task("requests", total=len(arrivals), told="")
    failed = 0

    def progress(answer: Answer) -> None:
        nonlocal failed
        failed += answer.failure is not None
        bar.update(task, advance=1, told=f"[red]{failed} failed[/red]" if failed else "")

    def notice(told: str) -> None:
        errors.print(f"[yellow]first failure of its kind:[/yellow] {escape(told)}", soft_wrap=True, highlight=False)

    async def main() -> Summary:
        key = os.environ.get("OPENAI_API_KEY")
        kind = VllmClient if sender is Sender.VLLM else Client
        async with kind(url, model, api_key=key, notice=notice, **options) as client:
            with bar:
                return await Replay(client, arrivals, concurrency=concurrency, progress=progress).run()

    try:
        return asyncio.run(main())
    except EndpointError as error:
        _fail(str(error), as_json)
    except KeyboardInterrupt:  # before the first request, or a second Ctrl-C
        raise typer.Exit(_INTERRUPTED) from None


def _fields(body: str, as_json: bool) -> dict[str, Any]:
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise ValueError("not an object")
    except ValueError as error:
        _fail(f"--body {body}: {error} (give one JSON object)", as_json)
    return fields


def _show(summary: Summary) -> None:
    console = Console()
    if summary.completed:
        table = Table(title="latency in ms")
        table.add_column("")
        for column in ("mean", "p50", "p90", "p99", "max"):
            table.add_column(column, justify="right")
        for field, name in _ROWS.items():
            latency: Latency | None = getattr(summary, field)
            if latency is not None:
                values = (latency.mean, latency.p50, latency.p90, latency.p99, latency.max)
                table.add_row(name, *(f"{value:,.1f}" for value in values))
        console.print(table)
    told = "interrupted: " if summary.interrupted else ""
    console.print(
        f"{told}{summary.completed} of {summary.planned} requests answered in {summary.seconds:.1f} s: "
        f"{summary.requests_per_s:.2f} requests/s, {summary.output_tokens_per_s:.1f} output tokens/s "
        f"({summary.prompt_tokens:,} prompt and {summary.output_tokens:,} output tokens)",
        highlight=False,
        soft_wrap=True,
    )
    for kind, count in summary.failures.items():
        console.print(f"[red]failed: {count} {kind}[/red]", highlight=False)
    if summary.cut_off:
        console.print(f"cut off under way: {summary.cut_off}", highlight=False)
    if summary.other_lengths:
        console.print(
            f"[yellow]{summary.other_lengths} answers have other token counts than the trace: the engine does not take "
            "prompts of token ids, min_tokens or ignore_eos as vLLM and SGLang do[/yellow]",
            highlight=False,
            soft_wrap=True,
        )


def _fail(message: str, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": message}))
    else:
        Console(stderr=True).print(f"[red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)
