"""What is right is computed in a process of its own. A reference that fails there fails alone, and says how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from bench_cases import NORM

from fib_plugin.bench import referee as module
from fib_plugin.bench.child import Place
from fib_plugin.bench.nursery import Nursery
from fib_plugin.bench.referee import Referee
from fib_plugin.bench.reference import BrokenReference

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="Linux only")
FORMS = [(torch.float32, (4, 64))]
Make = Callable[..., Referee]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery("cpu", 1)
    yield found
    found.close()


@pytest.fixture
def make(nursery: Nursery, tmp_path: Path) -> Iterator[Make]:
    made: list[Referee] = []

    def one(body: str | None = None, limit_s: float = 60.0) -> Referee:
        definition = NORM if body is None else NORM.model_copy(update={"reference": body})
        made.append(Referee(Place("cpu", 1, tmp_path), nursery, definition, limit_s))
        return made[-1]

    yield one
    for referee in made:
        referee.close()


def inputs() -> list[torch.Tensor]:
    return [torch.randn(4, 64), torch.randn(64)]


def pid(referee: Referee) -> int:
    assert referee._child is not None
    return referee._child._process.pid


def reference(body: str) -> str:
    return f"import os, time\nimport torch\n\n\ndef run(x, weight):\n    print('here I go', flush=True)\n    {body}\n"


def test_it_answers_as_the_reference_does(make: Make) -> None:
    x, weight = inputs()
    (found,), seconds = make()([x, weight], FORMS)
    wanted = torch.nn.functional.rms_norm(x, (64,), weight, 1e-5)
    torch.testing.assert_close(found, wanted)
    assert 0 < seconds < 10


def test_what_a_reference_does_to_its_inputs_stays_with_it(make: Make) -> None:
    referee = make(reference("x.zero_(); weight.zero_(); return x"))
    given = inputs()
    kept = [value.clone() for value in given]
    for _ in range(2):
        referee(given, FORMS)
    assert all(torch.equal(value, before) for value, before in zip(given, kept, strict=True))


def test_other_sizes_can_be_asked_for(make: Make) -> None:
    referee = make()
    for rows in (4, 9, 4):
        (found,), _ = referee([torch.randn(rows, 64), torch.ones(64)], [(torch.float32, (rows, 64))])
        assert found.shape == (rows, 64)
        referee.release()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('kaputt')", "ValueError: kaputt"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("os._exit(3)", "exited with code 3"),
        ("torch.empty(1 << 44); return x", "allocate"),
        ("return x, x", "returns 2 values"),
        ("return x[:1]", "(1, 64)"),
        ("return x.double()", "float64"),
        ("return None", "failed"),
    ],
)
def test_a_reference_that_fails_is_named_with_its_reason(make: Make, body: str, said: str) -> None:
    with pytest.raises(BrokenReference, match=NORM.name) as broken:
        make(reference(body))(inputs(), FORMS)
    assert said in str(broken.value)


def test_what_it_printed_is_in_the_reason(make: Make) -> None:
    with pytest.raises(BrokenReference, match="here I go"):
        make(reference("os._exit(3)"))(inputs(), FORMS)


def test_a_reference_that_does_not_import_is_named(make: Make) -> None:
    with pytest.raises(BrokenReference, match=f"reference of {NORM.name} cannot be loaded"):
        make("import no_such_module\n\n\ndef run(x, weight):\n    return x\n")(inputs(), FORMS)


def test_a_reference_that_hangs_is_ended(make: Make) -> None:
    referee = make(reference("time.sleep(60); return x"), limit_s=1.0)
    with pytest.raises(BrokenReference, match="no answer within 1 s"):
        referee(inputs(), FORMS)


def test_a_reference_that_takes_all_memory_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda: 1 << 28)
    with pytest.raises(BrokenReference, match=r"[mM]emory"):
        make(reference("held = [bytearray(1 << 26) for _ in range(400)]; return x"))(inputs(), FORMS)


@pytest.mark.parametrize("whose", ["its own", "the server's"])
def test_a_process_that_something_else_killed_is_begun_again(make: Make, nursery: Nursery, whose: str) -> None:
    referee = make()
    given = inputs()
    (first,), _ = referee(given, FORMS)
    os.kill(pid(referee) if whose == "its own" else nursery.server()._process.pid, signal.SIGKILL)
    (second,), _ = referee(given, FORMS)
    assert torch.equal(first, second)


def test_a_solution_cannot_look_into_it_even_without_landlock(make: Make) -> None:
    referee = make()
    referee(inputs(), FORMS)
    source = (
        "import sys\nfrom fib_plugin.bench import sandbox\nprint(sandbox._drop_capabilities())\n"
        "open(f'/proc/{sys.argv[1]}/mem', 'rb')\n"
    )
    tried = subprocess.run(
        [sys.executable, "-c", source, str(pid(referee))], capture_output=True, text=True, check=False
    )
    assert "PermissionError" in tried.stderr, tried
