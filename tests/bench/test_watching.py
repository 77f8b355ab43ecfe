"""What is seen beside a call: threads that it leaves, and Python that runs inside of compiled code."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fib_plugin.bench import watching


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that other tests left are not this one's."""
    known = set(watching._frames())
    frames = watching._frames
    monkeypatch.setattr(
        watching, "_frames", lambda: {key: frame for key, frame in frames().items() if key not in known}
    )


def test_a_thread_that_runs_on_is_counted() -> None:
    end = threading.Event()
    thread = threading.Thread(target=lambda: end.wait(20.0))
    thread.start()
    try:
        assert watching.threads_left() == 1
    finally:
        end.set()
        thread.join()
    assert watching.threads_left() == 0


def test_an_idle_pool_is_counted_and_one_that_ends_is_waited_for() -> None:
    pool = ThreadPoolExecutor(2)
    pool.submit(int).result()
    assert watching.threads_left() == 1
    pool.shutdown(wait=False)
    assert watching.threads_left() == 0


def test_a_librarys_own_thread_is_not_the_solutions() -> None:
    scope: dict[str, object] = {"wait": threading.Event().wait}
    exec(compile("def run():\n    wait(0.5)\n", "/usr/lib/python3/site-packages/tqdm/_monitor.py", "exec"), scope)
    thread = threading.Thread(target=scope["run"])  # type: ignore[arg-type]
    thread.start()
    assert watching.threads_left() == 0
    thread.join()


def test_code_made_from_text_is_noted_inside_of_compiled_code_only() -> None:
    scope: dict[str, object] = {}
    exec("def work():\n    return 1\n", scope)
    work = scope["work"]
    with watching.watching(ghost=False, native=True) as seen:
        work()  # type: ignore[operator]
        sorted([2, 1])
        threading.Event().is_set()
    assert seen.python == ["work of <string>"]
    with watching.watching(ghost=False) as seen:
        work()  # type: ignore[operator]
    assert seen.python == []
