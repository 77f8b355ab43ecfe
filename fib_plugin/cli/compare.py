"""`fib compare`: any command with the plugin off and on, in turns, and what the difference is worth."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fib_plugin.compare.command import CommandError, Measure, run
from fib_plugin.compare.ratios import Ratios, ratios
from fib_plugin.compare.server import MEASURES, PORT, Server, ServerError
from fib_plugin.compare.sides import OFF, ON, Done, done_since, environments
from fib_plugin.compare.turns import in_turns
from fib_plugin.compare.worker import Worker, WorkerError

_INTERRUPTED = 130
#: Asks one side for one measurement.
_Sides = dict[str, Callable[[], float]]


@dataclass(frozen=True, slots=True)
class _Load:
    """What servers are sent."""

    trace: Path | None
    vocab: int | None
    requests: int | None
    rate: float
    concurrency: int | None
    measure: str


def compare(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run on both sides.")],
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Rounds before them.")] = 1,
    apply: Annotated[
        bool | None, typer.Option("--apply/--no-apply", help="On side.", show_default="FIB_ENABLE_APPLY, else on")
    ] = None,
    tracing: Annotated[
        bool | None, typer.Option("--tracing/--no-tracing", help="On side.", show_default="FIB_ENABLE_TRACING")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Of the on side.", show_default="FIB_DATASET_PATH")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Regular expression for a number in the output.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Key in the JSON object of the last line: a.b.")] = None,
    higher: Annotated[bool, typer.Option("--higher-is-better", help="The number is a throughput.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that a run, or a start, may take.")] = 1800.0,
    serve: Annotated[
        bool,
        typer.Option("--serve", help=f"COMMAND is a server at {PORT}; two stay up side by side and are sent --trace."),
    ] = False,
    worker: Annotated[
        bool, typer.Option("--worker", help="COMMAND answers requests line by line (fib_plugin.compare.worker).")
    ] = False,
    ask: Annotated[str, typer.Option("--ask", help="What a worker is asked, as JSON.")] = '["measure"]',
    trace: Annotated[Path | None, typer.Option("--trace", help="Request trace, as `fib replay` takes it.")] = None,
    vocab: Annotated[int | None, typer.Option("--vocab", min=1, help="Token ids of the served model.")] = None,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Only the first N of the trace.")] = None,
    rate: Annotated[float, typer.Option("--rate", help="Speed of time; inf sends all at once.")] = float("inf"),
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Most requests under way.")] = 16,
    measure: Annotated[
        str, typer.Option("--measure", help=f"Of the replay: {', '.join(MEASURES)}; latencies are medians.")
    ] = "output_tokens_per_s",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Run a command with the plugin off and on, in turns, and print the ratio with its spread.

    Off is FIB_DISABLE=1. Without --serve or --worker the command runs to its end each time, and its wall time or the
    number of --metric or --key counts. More than 1 is better, whichever way the number goes.

        fib compare --rounds 5 -- python decode.py

        fib compare --key tokens_per_s --higher-is-better -- python decode.py

        fib compare --serve --trace azure.csv --vocab 128256 -- vllm serve MODEL --port {port}

    The exit code is 1 when a side failed, 2 when the request is wrong, 130 after Ctrl-C, which still prints what came.
    """
    if serve and worker:
        _fail("--serve and --worker are two ways; take one", as_json)
    sides = environments(os.environ, apply=apply, tracing=tracing, dataset=dataset)
    opened: contextlib.AbstractContextManager[_Sides]
    load = _Load(trace, vocab, requests, rate, concurrency, measure)
    if serve:
        _check_load(load, command, as_json)
        higher, name = MEASURES[measure], measure
        opened = _servers(command, sides, load, timeout)
    elif worker:
        name = ask
        opened = _workers(command, sides, _request(ask, as_json), timeout)
    else:
        wanted = _measure(metric, key, as_json)
        name = wanted.name
        runs: _Sides = {side: partial(run, command, env, wanted, timeout) for side, env in sides.items()}
        opened = contextlib.nullcontext(runs)
    taken: dict[str, list[float]] = {OFF: [], ON: []}
    console = Console(stderr=True)

    def tell(number: int, side: str, value: float) -> None:
        if number > 0:
            taken[side].append(value)
        if not as_json:
            what = f"round {number} of {rounds}" if number > 0 else "warm-up"
            console.print(f"[dim]{what}, {side}: {value:.6g}[/dim]", highlight=False)

    began, interrupted = time.time(), False
    try:
        with opened as asked:
            in_turns(asked, rounds, warmup=warmup, tell=tell)
    except KeyboardInterrupt:
        interrupted = True
    except (CommandError, ServerError, WorkerError) as error:
        _fail(str(error), as_json, 1)
    whole = min(len(values) for values in taken.values())
    if not whole:
        raise typer.Exit(_INTERRUPTED)
    taken = {side: values[:whole] for side, values in taken.items()}
    found = ratios(taken[OFF], taken[ON], higher_is_better=higher)
    done = done_since(began - 1, _cache(sides[ON]))
    doubt = done.doubt(sides[ON])
    if as_json:
        told = {"measure": name, "higher_is_better": higher, **found.to_dict(), "samples": taken}
        print(json.dumps({**told, "plugin": _fields(done), "doubt": doubt, "interrupted": interrupted}))
    else:
        _show(name, found, done, doubt)
    raise typer.Exit(_INTERRUPTED if interrupted else 0)


@contextlib.contextmanager
def _servers(command: list[str], sides: dict[str, dict[str, str]], load: _Load, timeout: float) -> Iterator[_Sides]:
    from fib_plugin.replay.arrivals import TraceError, read_arrivals, scaled

    assert load.trace is not None
    try:
        arrivals = scaled(read_arrivals(load.trace), rate=load.rate, requests=load.requests)
    except TraceError as error:
        raise ServerError(str(error)) from None
    with contextlib.ExitStack() as stack:
        asked: _Sides = {}
        for side, environment in sides.items():
            # One after the other: an engine that starts looks how much memory is free.
            server = stack.enter_context(Server(command, environment, side))
            server.wait(timeout)
            asked[side] = partial(server.measure, arrivals, load.measure, load.concurrency, vocabulary=load.vocab)
        yield asked


@contextlib.contextmanager
def _workers(
    command: list[str], sides: dict[str, dict[str, str]], request: list[Any], timeout: float
) -> Iterator[_Sides]:
    with contextlib.ExitStack() as stack:
        asked: _Sides = {}
        for side, environment in sides.items():
            started = stack.enter_context(Worker(command, environment, side))
            asked[side] = partial(_number, started, request, timeout)
        yield asked


def _number(worker: Worker, request: list[Any], timeout: float) -> float:
    answer = worker.ask(*request, timeout=timeout)
    if isinstance(answer, bool) or not isinstance(answer, (int, float)) or answer <= 0:
        raise WorkerError(f"{worker.name} answered {answer!r} to {json.dumps(request)}, which is no number above 0")
    return float(answer)


def _measure(metric: str | None, key: str | None, as_json: bool) -> Measure:
    if metric is not None and key is not None:
        _fail("--metric and --key are two ways to name a number; take one", as_json)
    try:
        return Measure(None if metric is None else re.compile(metric), key)
    except re.error as error:
        _fail(f"--metric {metric}: {error}", as_json)


def _request(ask: str, as_json: bool) -> list[Any]:
    try:
        request = json.loads(ask)
        if not isinstance(request, list) or not request:
            raise ValueError("not a list")
    except ValueError as error:
        _fail(f'--ask {ask}: {error} (give a JSON list: ["decode", 16])', as_json)
    return request


def _check_load(load: _Load, command: list[str], as_json: bool) -> None:
    if load.measure not in MEASURES:
        _fail(f"--measure {load.measure}: take one of {', '.join(MEASURES)}", as_json)
    if load.trace is None or load.vocab is None:
        _fail("--serve needs --trace (what to send) and --vocab (vocab_size in the model's config.json)", as_json)
    if importlib.util.find_spec("aiohttp") is None:
        _fail("aiohttp is not installed (pip install 'fib-plugin[replay]')", as_json)
    if not any(PORT in part for part in command):
        _fail(f"--serve runs two servers at once: write {PORT} where the command takes its port", as_json)


def _cache(environment: dict[str, str]) -> Path:
    from fib_plugin.settings import Settings

    default = Settings.model_fields["cache_path"].get_default(call_default_factory=True)
    return Path(environment.get("FIB_CACHE_PATH") or default).expanduser()


def _fields(done: Done) -> dict[str, Any]:
    return {name: getattr(done, name) for name in Done.__slots__}


def _show(name: str, found: Ratios, done: Done, doubt: str | None) -> None:
    console = Console()
    table = Table(title=escape(f"{name}: the plugin off and on, {found.rounds} rounds in turns"))
    for column in ("off", "on", "ratio", "middle half", "95% interval of the median"):
        table.add_column(column, justify="right")
    spread = [f"{low:.4f} .. {high:.4f}" for low, high in (found.quartiles, found.interval)]
    table.add_row(f"{found.off:.6g}", f"{found.on:.6g}", f"{found.ratio:.4f}", *spread)
    console.print(table)
    better = "better" if found.ratio > 1 else "worse"
    verdict = f"on is {better}" if found.decided else "no difference is shown (the interval holds 1)"
    console.print(f"{verdict}; more than 1 is better", highlight=False)
    console.print(
        f"on the on side {done.processes} processes ran the plugin: {done.substituted:,} of {done.calls:,} calls "
        f"answered by solutions, {done.written:,} workloads written",
        highlight=False,
        soft_wrap=True,
    )
    if doubt is not None:
        console.print(f"[yellow]note:[/yellow] {escape(doubt)}", soft_wrap=True, highlight=False)


def _fail(message: str, as_json: bool, code: int = 2) -> NoReturn:
    if as_json:
        print(json.dumps({"error": message}))
    else:
        Console(stderr=True).print(f"[red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)
