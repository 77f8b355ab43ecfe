"""The lock of whoever moves records within a dataset: merges and curations in place take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from fib_plugin.dataset import layout
from fib_plugin.dataset.lines import lock_for
from fib_plugin.schema import SchemaError

_MERGE = f"{layout.OURS}/merge"
"""No file: only its name is locked."""

_TIMEOUT_S = 600.0
"""Another merge may have very many records to bring in."""


@contextmanager
def merge_lock(root: Path) -> Iterator[None]:
    """Held meanwhile; SchemaError when another process does not let go of it."""
    lock = lock_for(root / _MERGE, _TIMEOUT_S)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise SchemaError(
            f"another merge or curation holds the dataset for more than {_TIMEOUT_S:g} s",
            file=root,
            remedy="wait for it, or see whether it hangs",
        ) from error
    try:
        yield
    finally:
        lock.release()
