"""`fib bench`: benchmarks the solutions of a dataset, or one under work, and shows what came out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from fib_plugin import settings
from fib_plugin.cli.bench_view import View
from fib_plugin.schema import SchemaError

if TYPE_CHECKING:
    from fib_plugin.bench import BenchResult
    from fib_plugin.bench.profile import Profile
    from fib_plugin.schema import Solution

_INTERRUPTED = 130
_SHOWN = 6
_PROFILES = "profiles"  # below the cache


class Command(TyperCommand):
    """Lets ``--ray`` stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        for index, word in enumerate(given):
            if word == "--ray" and not _is_address(given[index + 1 : index + 2]):
                given.insert(index + 1, "auto")
                break
        return super().parse_args(ctx, given)


def _is_address(words: Sequence[str]) -> bool:
    return any(word in ("auto", "local") or (":" in word and not word.startswith("-")) for word in words)


def bench(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOLUTION",
            help="Folders with a solution.toml, or Solution JSON files, to bench as they are; none: the dataset's.",
        ),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Folder of the dataset.", show_default="FIB_DATASET_PATH")
    ] = None,
    definitions: Annotated[
        list[str] | None, typer.Option("--definitions", "-d", help="Name or glob; may be repeated.")
    ] = None,
    solutions: Annotated[
        list[str] | None, typer.Option("--solutions", "-s", help="Name or glob; may be repeated.")
    ] = None,
    op_type: Annotated[str | None, typer.Option("--op-type", help="Only definitions of this op type.")] = None,
    author: Annotated[str | None, typer.Option("--author", help="Only solutions of this author.")] = None,
    workloads: Annotated[
        int | None, typer.Option("--workloads", min=1, help="Workloads per definition, most called first.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds per solution and workload.")] = 60.0,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0.0, help="Seconds after which nothing new is started.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", help="Comma list, such as cuda:0,cuda:1; default all GPUs, else the CPU.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads; default FIB_BENCH_THREADS, else the physical cores."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Use all nodes of a Ray cluster: host:port, auto (default: the one running here) or local.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what was measured here before.")] = False,
    save: Annotated[bool, typer.Option("--save", help="With SOLUTION: keep it, its traces and measurements.")] = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Then profile what passed (ncu on GPUs), outside of the sandbox."),
    ] = False,
    no_graphs: Annotated[
        bool, typer.Option("--no-graphs", help="On GPUs, time plain calls, not replays of CUDA graphs.")
    ] = False,
    warm: Annotated[
        bool,
        typer.Option("--warm", help="Leave inputs in the device's cache between calls; in an engine they are not."),
    ] = False,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="On GPUs, also count launches and the kernels' own time, by CUPTI."),
    ] = False,
    full_logs: Annotated[bool, typer.Option("--full-logs", help="Show all that failures said.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Run solutions on captured workloads: right or wrong, and how fast against the op they would displace.

    A failing solution is a result: the exit code stays 0. It is 1 when nothing could run, 2 when the request is wrong.
    """
    root = _root(dataset, as_json)
    if profile and ray is not None:
        _fail("--profile runs on this host only (leave out --ray)", as_json)
    named = None if devices is None else [name.strip() for name in devices.split(",") if name.strip()]
    if named == []:
        _fail(f"--devices {devices!r} names none (give some, such as cpu or cuda:0,cuda:1, or leave it out)", as_json)
    from fib_plugin.bench import BenchError, run_bench  # imports torch
    from fib_plugin.bench.candidates import read_candidates
    from fib_plugin.dataset import TraceSet, load_measurements

    view = View(as_json)
    profiles: list[Profile] = []
    try:
        chosen = settings.load()
        traceset = TraceSet.from_path(root, strict=False)
        candidates: list[Solution] | None = None
        if paths:
            found = read_candidates(paths, traceset.definitions)
            candidates = found.solutions
            view.problems.extend(found.refusals)
        threads = threads or chosen.bench_threads
        with view:
            run_bench(
                traceset,
                definitions,
                solutions,
                workloads,
                resume,
                view.show,
                timeout,
                op_type=op_type,
                author=author,
                threads=threads,
                cache=chosen.cache_path,
                candidates=candidates,
                save=save or not paths,
                budget=budget,
                devices=named,
                ray=ray,
                graphs=not no_graphs,
                warm=warm,
                kernels=kernels,
            )
        if profile:
            profiles = _profile(view.results, root, named, threads, chosen.cache_path, as_json)
    except KeyboardInterrupt:
        view.interrupted = True
    except SchemaError as error:
        _fail("\n".join(str(problem) for problem in error.flat()), as_json)
    except (BenchError, OSError, settings.SettingsError) as error:
        _fail(str(error), as_json)
    kept = save or not paths
    if as_json:
        print(json.dumps(_summary(root, view, profiles, kept), indent=2))
    else:
        _print(view, profiles, kept, full_logs, chosen.apply_margin)
    if view.interrupted:
        raise typer.Exit(_INTERRUPTED)
    # What an earlier run measured has run: resuming has nothing left to do then.
    ran = bool(view.results) or (resume and bool(load_measurements(root)))
    raise typer.Exit(1 if view.problems and not ran else 0)


def _root(dataset: Path | None, as_json: bool) -> Path:
    try:
        root = dataset if dataset is not None else settings.load().dataset_path
    except settings.SettingsError as error:
        _fail(str(error), as_json)
    if not root.is_dir():
        _fail(f"{root} is no folder (name the dataset with --dataset, or set FIB_DATASET_PATH)", as_json)
    return root


def _fail(message: str, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"error": message}))
    else:
        Console(stderr=True).print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(2)


def _profile(
    results: Sequence[BenchResult], root: Path, devices: list[str] | None, threads: int | None, cache: Path, quiet: bool
) -> list[Profile]:
    from fib_plugin.bench import profile
    from fib_plugin.bench.child import Place
    from fib_plugin.bench.devices import host_devices
    from fib_plugin.bench.host import physical_cores

    device = devices[0] if devices else host_devices()[0]
    place = Place(device, threads or physical_cores(), cache)
    with Console(stderr=True, quiet=quiet).status("profiling what passed"):
        return list(profile.profile(results, root, place, cache / _PROFILES))


def _print(view: View, profiles: Sequence[Profile], kept: bool, full_logs: bool, margin: float) -> None:
    from fib_plugin.bench import report

    console = Console()
    report.show(console, view.results, **({"log_lines": None} if full_logs else {}))
    for one in profiles:
        where = f": {one.report}" if one.report else ""
        console.print(f"[bold]{escape(one.solution)}[/]: {escape(one.said + where)}", soft_wrap=True, highlight=False)
    won, compared = report.wins(view.results, margin)
    if compared:
        names = ", ".join(f"{one.solution.name} at {report.axes_of(one)}" for one in won[:_SHOWN])
        told = f"{len(won)} of {compared} win by more than {margin:.0%} (FIB_APPLY_MARGIN)"
        more = ", ..." if len(won) > _SHOWN else ""
        console.print(escape(f"{told}: {names}{more}" if won else told), soft_wrap=True, highlight=False)
    for problem in view.problems:
        console.print(f"[yellow]left out:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    told = report.counts(view.results) or "nothing was left to run"
    console.print(f"{'interrupted; kept' if view.interrupted else 'done'}: {told}", soft_wrap=True)
    if not kept and view.results:
        console.print(
            "nothing was written to the dataset (--save keeps the solution, its traces and measurements)",
            soft_wrap=True,
        )
    if view.interrupted:
        console.print("continue with the same command and --resume")
    sys.stdout.flush()


def _summary(root: Path, view: View, profiles: Sequence[Profile], kept: bool) -> dict[str, Any]:
    import msgspec

    results = view.results
    return {
        "dataset": str(root),
        "interrupted": view.interrupted,
        "saved": kept,
        "statuses": dict(Counter(result.status.value for result in results)),
        "problems": list(view.problems),
        "results": [{**msgspec.to_builtins(result.measurement), "log": result.log} for result in results],
        "profiles": [
            {
                "solution": one.solution,
                "definition": one.definition,
                "axes": one.axes,
                "report": None if one.report is None else str(one.report),
                "said": one.said,
            }
            for one in profiles
        ],
    }
