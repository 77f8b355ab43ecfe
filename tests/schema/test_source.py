"""Source is parsed although another thread parses at the same moment."""

from __future__ import annotations

import ast
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fib_plugin import ops
from fib_plugin.schema import source


def clashing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    real, left = ast.parse, [times]

    def parse(*args: Any, **kwargs: Any) -> ast.AST:
        if left[0]:
            left[0] -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=147, after=48)")
        return real(*args, **kwargs)

    monkeypatch.setattr(source, "ast", SimpleNamespace(parse=parse))


def test_a_clash_with_another_thread_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clashing(monkeypatch, 5)
    assert ops.ALL["gemm"].definition(n=3, k=2).name == "gemm_n3_k2"


def test_a_clash_without_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clashing(monkeypatch, 1000)
    with pytest.raises(SystemError, match="recursion depth"):
        source.parse_source("x = 1")


def test_two_threads_make_definitions_at_once() -> None:
    failed: list[BaseException] = []

    def make() -> None:
        try:
            for number in range(150):
                ops.ALL["gqa_paged_decode"].definition(
                    num_qo_heads=8, num_kv_heads=2, head_dim=number + 1, page_size=1, dtype="float32"
                )
        except BaseException as error:
            failed.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed
