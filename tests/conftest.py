"""Makes the test folders importable by name (``from engines.forge import forge``); fixtures of the core's tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with the marker ``gpu`` are skipped where torch sees no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    try:
        import torch
    except ImportError as error:
        reason = f"needs a GPU and torch: {error}"
    else:
        if torch.cuda.is_available():
            return
        reason = f"needs a GPU: torch {torch.__version__} sees none"
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))


class Lines(logging.Handler):
    """Keeps what our logger says, warnings and worse apart from the rest."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.all: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record.getMessage())
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())


@pytest.fixture
def log() -> Iterator[Lines]:
    logger, lines = logging.getLogger("fib_plugin"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, dataset: Path, tmp_path: Path) -> pytest.MonkeyPatch:
    """No FIB_ variable but the paths, which lead into the test's folder."""
    for name in [name for name in os.environ if name.upper().startswith("FIB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FIB_DATASET_PATH", str(dataset))
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("FIB_LOCK_PATH", str(tmp_path / "fib.lock"))
    # Watermarked solutions are wrong on purpose; the tests of probation switch it on.
    monkeypatch.setenv("FIB_PROBATION", "0")
    return monkeypatch


@pytest.fixture
def make_runtime(environment: pytest.MonkeyPatch, dataset: Path) -> Iterator[Callable[..., Any]]:
    """Makes runtimes on the test's dataset; settings by keyword."""
    from fib_plugin import settings
    from fib_plugin.runtime import Runtime

    made: list[Runtime] = []

    def make(*, apply: bool = True, tracing: bool = False, **changes: Any) -> Runtime:
        chosen = settings.load().model_copy(update=changes)
        made.append(Runtime(chosen, apply=apply, tracing=tracing))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()


@pytest.fixture
def adapters(environment: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Replaces the installed adapters by the given ones; takes everything out again at the end."""
    import importlib.metadata

    from fib_plugin import plugin

    real = importlib.metadata.entry_points

    class Entry:
        def __init__(self, name: str, loaded: Any) -> None:
            self.name = name
            self.loaded = loaded

        def load(self) -> Any:
            return self.loaded() if callable(self.loaded) else self.loaded

    def use(*groups: Any) -> None:
        entries = [Entry(f"group{number}", group) for number, group in enumerate(groups)]
        environment.setattr(
            importlib.metadata,
            "entry_points",
            lambda **asked: entries if asked.get("group") == "fib_plugin.adapters" else real(**asked),
        )

    use()
    yield use
    plugin.deactivate()
