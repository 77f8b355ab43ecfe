"""What a sandboxed child cannot do, and what becomes of one that asks for too much. Each test asks a real child."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench_cases import NORM, solution

from fib_plugin.bench import excess, landlock, sandbox, tree, wire
from fib_plugin.bench.child import Child, ChildDied, Place
from fib_plugin.bench.forkserver import ForkServer
from fib_plugin.bench.seat import Refused, Seat
from fib_plugin.bench.tree import marked
from fib_plugin.build import lay_down

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="Linux only")
FREE = 1 << 30
needs_seccomp = pytest.mark.skipif(find_spec("pyseccomp") is None, reason="pyseccomp is not installed")
needs_landlock = pytest.mark.skipif(landlock.version() < 6, reason="this kernel's Landlock lacks it")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer("cpu", 1)
    yield server
    server.close()


def said(server: ForkServer, cache: Path, source: str, memory: int = FREE) -> str:
    """How a solution of ``source`` fails, or an empty word when it is loaded."""
    candidate = solution("candidate", source + "\n\ndef run(x, weight):\n    return x\n")
    folder = lay_down(candidate, cache)
    child = Child(Place("cpu", 1, cache), server, memory, [folder])
    try:
        seat = Seat(child, displaced=False)
        seat.give(60.0)
        seat.load(candidate, NORM, folder)
        return ""
    except Refused as refused:
        return refused.reply.log if refused.reply.denied else f"not by the sandbox: {refused.reply.log}"
    except ChildDied as died:
        return str(died)
    finally:
        child.close()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)", marks=needs_seccomp),
        pytest.param("import os\nos.fork()", marks=needs_seccomp),
        pytest.param("import os\nos.sched_setaffinity(0, range(os.cpu_count()))", marks=needs_seccomp),
        pytest.param("import os\nos.kill(os.getppid(), 9)", marks=needs_landlock),
        pytest.param("import os\nos.listdir('/tmp')", marks=needs_landlock),
        pytest.param("open('/proc/%d/mem' % __import__('os').getppid(), 'rb')", marks=needs_landlock),
        pytest.param("open('/etc/shadow')", marks=needs_landlock),
        pytest.param(
            "import os\nopen(os.path.join(os.path.dirname(__file__), 'planted.py'), 'w')", marks=needs_landlock
        ),
        "import torch\ntorch.empty(1 << 40, dtype=torch.uint8)",
    ],
)
def test_the_sandbox_refuses(source: str, server: ForkServer, cache: Path) -> None:
    log = said(server, cache, source)
    assert log
    assert not log.startswith("not by the sandbox"), log


@needs_landlock
def test_a_package_that_is_made_of_links_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "one.py").write_text("ONE = 1")
    package, scratch = tmp_path / "package", tmp_path / "scratch"
    package.mkdir()
    scratch.mkdir()
    (package / "part").symlink_to(tmp_path / "sources")
    program = f"""
import fib_plugin
from pathlib import Path
from fib_plugin.bench import sandbox
fib_plugin.__path__.append({str(package)!r})
sandbox.confine(Path({str(scratch)!r}), [], "cpu", None)
print(Path({str(package / "part" / "one.py")!r}).read_text())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "ONE = 1", done.stderr


@pytest.mark.parametrize(
    ("device", "steps"), [("cpu", ["landlock", "filter"]), ("cuda", ["landlock", "cuda", "filter"])]
)
def test_a_gpu_is_started_between_landlock_and_the_filter(
    device: str, steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def step(name: str) -> Callable[..., list[str]]:
        return lambda *_: [done.append(name) or name]  # type: ignore[func-returns-value]

    monkeypatch.setattr(landlock, "restrict", step("landlock"))
    monkeypatch.setattr(sandbox, "_start_device", step("cuda"))
    monkeypatch.setattr(sandbox, "_filter_calls", step("filter"))
    for harmful in ("_drop_capabilities", "_limit"):
        monkeypatch.setattr(sandbox, harmful, lambda *_: [])
    monkeypatch.setattr(sandbox.ctypes, "CDLL", lambda *_: SimpleNamespace(prctl=lambda *_: 0))
    notes = sandbox.confine(tmp_path, [], device, None)
    assert done == steps
    assert set(steps) <= set(notes)


def test_a_scratch_folder_and_the_own_session_are_left(server: ForkServer, cache: Path) -> None:
    source = (
        "import os, subprocess, sys, tempfile\n"
        "with tempfile.NamedTemporaryFile() as file:\n    file.write(b'x')\n"
        "assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).returncode == 0\n"
    )
    assert said(server, cache, source) == ""


def test_a_childs_reference_is_blank(server: ForkServer, cache: Path) -> None:
    source = (
        "import gc\n"
        "texts = [one.__dict__.get('reference') for one in gc.get_objects() if type(one).__name__ == 'Definition']\n"
        "assert not any('rsqrt' in (text or '') for text in texts), texts\n"
    )
    assert said(server, cache, source) == ""


def test_a_memory_bomb_is_ended_and_named(server: ForkServer, cache: Path) -> None:
    assert said(server, cache, "held = [bytearray(1 << 26) for _ in range(400)]", memory=1 << 28)


def test_files_without_end_are_a_reason_to_be_ended(
    server: ForkServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excess, "_MOST_FILE_BYTES", 64 << 20)
    source = (
        "import os, time\n"
        "for number in range(40):\n"
        "    with open(f'{os.environ[\"TMPDIR\"]}/{number}', 'wb') as file:\n"
        "        file.write(os.urandom(1 << 20) * 8)\n"
        "time.sleep(30)\n"
    )
    assert "GiB of files" in said(server, cache, source)


def test_a_flood_of_output_is_bounded(server: ForkServer, cache: Path) -> None:
    log = said(server, cache, "import os\nfor _ in range(4096):\n    os.write(1, b'x' * 65536)\nos._exit(3)")
    assert "exited with code 3" in log
    assert "bytes of output left out" in log
    assert len(log) < 10_000


def test_a_grandchild_in_a_session_of_its_own_is_ended(server: ForkServer, cache: Path, tmp_path: Path) -> None:
    source = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True, "
        "env={'LEFT': 'fib-left-over'})\n"
    )
    assert said(server, cache, source) == ""
    deadline = time.monotonic() + 5.0
    while (left := _with_environment(b"LEFT=fib-left-over")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_many_processes_are_a_reason_to_be_ended(server: ForkServer, cache: Path) -> None:
    source = (
        "import subprocess, sys, time\n"
        "for _ in range(200):\n    subprocess.Popen(['/bin/sleep', '30'])\n"
        "time.sleep(30)\n"
    )
    assert "processes (limit" in said(server, cache, source)


def test_closed_pipes_are_a_death(server: ForkServer, cache: Path) -> None:
    log = said(server, cache, "import os\nos.closerange(0, 64)\n")
    assert "closed its line" in log or "exited" in log


def test_the_server_survives_its_children(server: ForkServer, cache: Path) -> None:
    said(server, cache, "import os\nos.abort()")
    assert said(server, cache, "") == ""


def test_a_resting_child_does_not_run(server: ForkServer, cache: Path) -> None:
    child = Child(Place("cpu", 1, cache), server, FREE)
    try:
        child.request(wire.Ping(), 30.0)
        time.sleep(0.05)
        stat = Path(f"/proc/{child._process.pid}/stat").read_text()
        assert stat.rpartition(")")[2].split()[0] == "T"
        child.request(wire.Ping(), 30.0)
    finally:
        child.close()
    assert not marked(child._mark)


def _with_environment(needle: bytes) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if needle in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
    return found


def test_what_a_resting_child_started_does_not_run_either(server: ForkServer, cache: Path) -> None:
    candidate = solution(
        "starter",
        "import subprocess, sys\n\n\ndef run(x, weight):\n    return x\n\n\n"
        "left = subprocess.Popen([sys.executable, '-c', 'while True: pass'], start_new_session=True)\n",
    )
    folder = lay_down(candidate, cache)
    child = Child(Place("cpu", 1, cache), server, FREE, [folder])
    try:
        seat = Seat(child, displaced=False)
        seat.give(60.0)
        seat.load(candidate, NORM, folder)
        (left,) = tree.running(child._process.pid)
        assert child.helpers == 1
        deadline = time.monotonic() + 5.0
        while tree.state(left) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tree.state(left) == "T"
    finally:
        child.close()
    assert tree.state(left) in ("", "Z")
