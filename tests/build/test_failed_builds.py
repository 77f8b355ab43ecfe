"""A build that failed for good is on record: nobody waits for the same compiler error again. Mishaps are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from build_cases import CPP, DEFINITION, HIDDEN, PYTHON, make, make_cpp

from fib_plugin.build import BuildError, build, native, precompile, ready
from fib_plugin.schema import Solution

BROKEN = make_cpp(CPP.replace("from[i]", "form[i]"))


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CXX becomes a script that counts its compilations, does as told and else is c++; the file it counts in."""
    marks = folder / "compilations"
    program = folder / "counting-c++"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec c++ --version\necho run >> {marks}\n{script}\nexec c++ "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    return marks


def runs(marks: Path) -> int:
    return len(marks.read_text().splitlines()) if marks.exists() else 0


def failure(solution: Solution, cache: Path) -> BuildError:
    with pytest.raises(BuildError) as caught:
        build(solution, DEFINITION, cache)
    return caught.value


def records(cache: Path) -> list[Path]:
    return list((cache / "build" / "failures").glob("*.json"))


def test_a_compile_error_is_raised_again_without_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = compiler(tmp_path, "", monkeypatch)
    first = failure(BROKEN, tmp_path)
    again = failure(BROKEN, tmp_path)
    assert (again.problem, again.log) == (first.problem, first.log)
    assert "form" in again.log
    assert "fib bench" in again.remedy
    assert runs(marks) == 1


def test_the_record_says_what_failed_when_and_with_what(tmp_path: Path) -> None:
    failure(BROKEN, tmp_path)
    (file,) = records(tmp_path)
    record = json.loads(file.read_text())
    assert record["problem"] == "cpp sources do not compile"
    assert "form" in record["log"]
    assert record["when"].startswith("20")
    assert "-march=native" in record["toolchain"]


def test_another_process_raises_the_same_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = compiler(tmp_path, "", monkeypatch)
    code = (
        "import sys\nfrom pathlib import Path\nfrom build_cases import CPP, DEFINITION, make_cpp\n"
        "from fib_plugin.build import BuildError, build\n"
        "try:\n    build(make_cpp(CPP.replace('from[i]', 'form[i]')), DEFINITION, Path(sys.argv[1]))\n"
        "except BuildError as error:\n    print(error.log)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    logs = [process.communicate(timeout=120)[0] for process in started]
    assert logs[0] == logs[1] == logs[2]
    assert "form" in logs[0]
    assert runs(marks) == 1


def test_a_recorded_error_waits_for_no_lock(tmp_path: Path) -> None:
    failure(BROKEN, tmp_path)
    (lock,) = (tmp_path / "build" / "locks").glob("*.lock")
    code = (
        "import filelock, sys, time\nwith filelock.FileLock(sys.argv[1]):\n"
        "    print(1, flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        start = time.monotonic()
        failure(BROKEN, tmp_path)
        assert time.monotonic() - start < 30
    finally:
        holder.kill()
        holder.wait()


def test_a_solution_of_equal_sources_gets_the_error_under_its_own_name(tmp_path: Path) -> None:
    failure(BROKEN, tmp_path)
    other = BROKEN.model_copy(update={"name": "other"})
    assert failure(other, tmp_path).problem == "other: cpp sources do not compile"


def test_changed_sources_are_compiled(tmp_path: Path) -> None:
    failure(BROKEN, tmp_path)
    x = torch.randn(2, HIDDEN)
    assert torch.equal(build(make_cpp(), DEFINITION, tmp_path).call(x, torch.ones(HIDDEN)), x + 1)


def test_a_retry_compiles_again_and_success_drops_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "toolchain-is-broken"
    broken.touch()
    marks = compiler(tmp_path, f'[ -e {broken} ] && echo "error: missing library" && exit 1', monkeypatch)
    failure(make_cpp(), tmp_path)
    with pytest.raises(BuildError):
        precompile(make_cpp(), tmp_path, retry=True)
    assert runs(marks) == 2
    broken.unlink()
    failure(make_cpp(), tmp_path)
    assert runs(marks) == 2
    precompile(make_cpp(), tmp_path, retry=True)
    assert records(tmp_path) == []
    build(make_cpp(), DEFINITION, tmp_path)


@pytest.mark.parametrize(
    "script",
    [
        'echo "g++: fatal error: Killed signal terminated program cc1plus"; exit 1',
        'echo "fatal error: error writing to /tmp/x.s: No space left on device"; exit 1',
        'echo "virtual memory exhausted: Cannot allocate memory"; exit 1',
        'echo "sh: 1: cc1plus: not found"; exit 127',
        "kill -KILL $$",
    ],
)
def test_a_mishap_is_not_recorded(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = compiler(tmp_path, script, monkeypatch)
    for turn in (1, 2):
        error = failure(make_cpp(), tmp_path)
        assert not error.lasting
        assert runs(marks) == turn
    assert records(tmp_path) == []
    assert not ready(make_cpp(), tmp_path)


def test_a_compiler_that_takes_too_long_is_ended_and_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    compiler(tmp_path, f"echo $$ > {pid}; exec sleep 600", monkeypatch)
    monkeypatch.setattr(native, "TIMEOUT_S", 4.0)
    assert "did not end" in failure(make_cpp(), tmp_path).problem
    assert records(tmp_path) == []
    wait_for(lambda: not alive(int(pid.read_text())))


def test_the_compiler_ends_with_the_process_that_wanted_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    compiler(tmp_path, f"echo $$ > {pid}; exec sleep 600", monkeypatch)
    code = (
        "import sys\nfrom pathlib import Path\nfrom build_cases import make_cpp\n"
        "from fib_plugin.build import precompile\nprecompile(make_cpp(), Path(sys.argv[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    wait_for(lambda: pid.exists() and bool(pid.read_text().strip()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(int(pid.read_text())))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"problem": "x"}', b"\xff"])
def test_a_record_that_cannot_be_read_is_no_record(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = compiler(tmp_path, "", monkeypatch)
    failure(BROKEN, tmp_path)
    records(tmp_path)[0].write_bytes(content)
    assert not ready(BROKEN, tmp_path)
    failure(BROKEN, tmp_path)
    assert runs(marks) == 2
    assert ready(BROKEN, tmp_path)


# ---- ready ----------------------------------------------------------------------------------------------------------


def test_interpreted_solutions_are_always_ready(tmp_path: Path) -> None:
    assert ready(make(PYTHON), tmp_path)
    assert ready(make(PYTHON, language="triton"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_solution_is_ready_once_it_is_in_the_cache(tmp_path: Path) -> None:
    assert not ready(make_cpp(), tmp_path)
    precompile(make_cpp(), tmp_path)
    assert ready(make_cpp(), tmp_path)
    assert not ready(make_cpp(CPP + "\n"), tmp_path)


@pytest.mark.parametrize("damage", ["cut", "lost", "unsealed", "odd"])
def test_a_damaged_artifact_is_not_ready(damage: str, tmp_path: Path) -> None:
    precompile(make_cpp(), tmp_path)
    (library,) = (tmp_path / "build").glob("*/*.so")
    manifest = library.parent / "complete.json"
    if damage == "cut":
        library.write_bytes(library.read_bytes()[:-1])
    elif damage == "lost":
        library.unlink()
    elif damage == "unsealed":
        manifest.unlink()
    else:
        manifest.write_text('{"kernel.so": 3}')
    assert not ready(make_cpp(), tmp_path)


def test_what_fails_at_once_is_ready_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure(BROKEN, tmp_path)
    assert ready(BROKEN, tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert ready(make_cpp(), tmp_path)


def test_being_ready_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fib_plugin.build.builder.toolchain", lambda solution: 1 / 0)
    assert ready(make_cpp(), tmp_path) is False


def test_being_ready_reads_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precompile(make_cpp(), tmp_path)
    read = Path.read_bytes

    def reading(path: Path) -> bytes:
        assert path.suffix == ".json", path
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    assert ready(make_cpp(), tmp_path)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
