"""FlashInfer's wrappers for CUDA graphs: planned outside, run inside; the graph reads what the next plan writes.

What is captured here is the Python of a capture; its kernels run at once, so a "replay" is the same lists made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.flashinfer.attention import PagedDecode, PagedPrefill
from fib_plugin.adapters.flashinfer.mla import Mla
from fib_plugin.adapters.flashinfer.step import Buffers, PagedStep, lists_in_graph, tokens_by_buffers
from proven import MARK

from fib_plugin import ops
from fib_plugin.dispatch.reason import Reason

HEADS, KV, DIM, PAGES, SIZE = 4, 2, 8, 12, 16
LENGTHS = (17, 5, 33)
FAMILY = ops.ALL["gqa_paged_decode"].definition(
    num_qo_heads=HEADS, num_kv_heads=KV, head_dim=DIM, page_size=1, dtype="float32"
)
MLA = ops.ALL["mla_paged_decode"].definition(num_qo_heads=HEADS, head_dim_ckv=DIM, head_dim_kpe=4, dtype="float32")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def starts(sizes: Any) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)


def lists(lengths: tuple[int, ...], size: int, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """(pages, indices, last_page_len, tokens): how a caller plans, and the slots that it means."""
    pages = starts([-(-length // size) for length in lengths])
    indices = torch.randperm(PAGES * SIZE // size, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    last = torch.tensor([(length - 1) % size + 1 if length else 0 for length in lengths], dtype=torch.int32)
    tokens = [
        int(indices[int(pages[row]) + at // size]) * size + at % size
        for row, length in enumerate(lengths)
        for at in range(length)
    ]
    return pages, indices[: int(pages[-1])], last, torch.tensor(tokens, dtype=torch.int32)


# ---- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["lengths", "last pages"])
@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("lengths", [LENGTHS, (1, 1, 1), (0, 7, 16)], ids=str)
def test_lists_made_in_a_graph_are_those_of_the_plan(lengths: tuple[int, ...], size: int, whole: bool) -> None:
    pages, indices, last, tokens = lists(lengths, size)
    room = torch.full((PAGES * SIZE,), 7, dtype=torch.int32)
    room[: len(indices)] = indices
    ends = torch.tensor(lengths, dtype=torch.int32) if whole else last
    for block in (size, 3 * size):
        indptr, found = lists_in_graph(Buffers(pages, room, ends, whole), size, block, 1)
        assert indptr.tolist() == starts(lengths).tolist()
        expected = tokens // size * block + tokens % size
        assert found[: len(tokens)].tolist() == expected.tolist()
        assert found.dtype is indptr.dtype is torch.int32
    by_host = tokens_by_buffers(size, whole, pages.numpy(), room.numpy(), ends.numpy())
    assert by_host[0].tolist() == starts(lengths).tolist()
    assert by_host[1].tolist() == tokens.tolist()


def test_pages_of_one_token_are_read_where_the_wrapper_keeps_them() -> None:
    pages, indices, last, _ = lists(LENGTHS, 1)
    buffers = Buffers(pages, indices, last, False)
    step = PagedStep(None, pages, indices, torch.tensor(LENGTHS), 1, buffers)
    assert step.lists_for(1, 1, object())[1] is indices
    assert step.length_class == ops.ANY_LENGTH


# ---- wrappers -------------------------------------------------------------------------------------------------------


class Toy:
    """A decode wrapper with buffers of its own, as the library's with ``use_cuda_graph``."""

    def __init__(self, adapter: Any, use_cuda_graph: bool = True) -> None:
        self._kv_layout, self._sm_scale, self._causal, self.device = "NHD", 0.3, True, torch.device("cpu")
        self._use_cuda_graph = use_cuda_graph
        self._paged_kv_indptr_buf = self._kv_indptr_buf = torch.zeros(len(LENGTHS) + 1, dtype=torch.int32)
        self._paged_kv_last_page_len_buf = self._kv_len_arr_buf = torch.zeros(len(LENGTHS), dtype=torch.int32)
        self._paged_kv_indices_buf = self._kv_indices_buf = torch.zeros(PAGES * 4, dtype=torch.int32)
        self._hooked = adapter.plan(Toy._planned), adapter.wrapped_run(lambda wrapper, q, *args, **more: q)
        self._adapter = adapter

    def _planned(self, *args: Any, **kwargs: Any) -> None:
        if isinstance(self._adapter, Mla):
            pages, indices, ends = kwargs["kv_indptr"], kwargs["kv_indices"], kwargs["kv_len_arr"]
        else:
            pages, indices, ends = args[-7:-4]
        self._kv_indptr_buf.copy_(pages), self._kv_len_arr_buf.copy_(ends)
        self._kv_indices_buf[: len(indices)].copy_(indices)

    def step(self, lengths: tuple[int, ...], seed: int = 1) -> torch.Tensor:
        """Plans a decode step; returns its slots."""
        pages, indices, last, tokens = lists(lengths, SIZE, seed)
        if isinstance(self._adapter, Mla):
            self._hooked[0](
                self,
                qo_indptr=torch.arange(len(lengths) + 1),
                kv_indptr=pages,
                kv_indices=indices,
                kv_len_arr=torch.tensor(lengths, dtype=torch.int32),
                page_size=SIZE,
                sm_scale=0.3,
                q_data_type=torch.float32,
                kv_data_type=torch.float32,
            )
        elif isinstance(self._adapter, PagedPrefill):
            self._hooked[0](self, torch.arange(len(lengths) + 1), pages, indices, last, HEADS, KV, DIM, SIZE)
        else:
            self._hooked[0](self, pages, indices, last, HEADS, KV, DIM, SIZE)
        return tokens

    def run(self, *tensors: Any) -> torch.Tensor:
        found: torch.Tensor = self._hooked[1](self, *tensors)
        return found


CACHE = normal(PAGES, 2, SIZE, KV, DIM)
ROWS = normal(PAGES, SIZE, DIM + 4)
GIVEN: dict[type, tuple[Any, ...]] = {
    PagedDecode: (normal(3, HEADS, DIM), CACHE),
    PagedPrefill: (normal(3, HEADS, DIM), CACHE),
    Mla: (normal(3, HEADS, DIM), normal(3, HEADS, 4), ROWS[..., :DIM], ROWS[..., DIM:]),
}


def expected(kind: type, lengths: tuple[int, ...], tokens: torch.Tensor) -> torch.Tensor:
    definition, scope = (MLA if kind is Mla else FAMILY), {}  # type: ignore[var-annotated]
    exec(definition.reference, scope)
    if kind is Mla:
        q, q_pe, ckv, kpe = GIVEN[Mla]
        inputs = (q, q_pe, ckv.reshape(-1, 1, DIM), kpe.reshape(-1, 1, 4))
    else:
        inputs = (GIVEN[kind][0], *(CACHE[:, half].reshape(-1, 1, KV, DIM) for half in (0, 1)))
    found: torch.Tensor = scope["run"](*inputs, starts(lengths), tokens, 0.3)[0]
    return found


@pytest.fixture
def runtime(make_runtime: Any, dataset: Any) -> Any:
    for definition in (FAMILY, MLA):
        solution = proven.solution(definition, f"fast__{definition.name}")
        proven.store(dataset, definition, solution)
        axes = dict.fromkeys(definition.var_axes, 1) | {"batch_size": 3, "len_indptr": 4, "num_kv_indices": 55}
        proven.append_measurements(dataset, definition.op_type, [proven.measurement(solution, axes)])
        proven.trust(dataset, solution)
    return make_runtime()


@pytest.fixture
def graph(runtime: Any) -> Iterator[Any]:
    """A capture that can be begun; it ends with the test."""
    held = type("Graph", (), {})()
    yield lambda: runtime.graphs.begin(held)
    runtime.graphs.end()


@pytest.mark.parametrize("kind", [PagedDecode, Mla])
def test_a_graph_holds_the_solution_and_reads_the_buffers(runtime: Any, graph: Any, kind: type) -> None:
    wrapper = Toy(kind(runtime))
    tokens = wrapper.step((1, 1, 1))
    warm_up = wrapper.run(*GIVEN[kind])
    torch.testing.assert_close(warm_up, expected(kind, (1, 1, 1), tokens) + MARK, atol=1e-5, rtol=1e-5)
    # What a capture is given is what the host last planned; what it reads is what is in the buffers by then.
    other = Toy(kind(runtime))
    tokens = other.step(LENGTHS, seed=2)
    for name in ("_kv_indptr_buf", "_kv_indices_buf", "_kv_len_arr_buf"):
        getattr(wrapper, name).copy_(getattr(other, name))
    graph()
    captured = wrapper.run(*GIVEN[kind])
    torch.testing.assert_close(captured, expected(kind, LENGTHS, tokens) + MARK, atol=1e-5, rtol=1e-5)


def test_one_solution_is_chosen_for_all_lengths(runtime: Any) -> None:
    wrapper, usual = Toy(PagedDecode(runtime)), Toy(PagedDecode(runtime), use_cuda_graph=False)
    for lengths in ((1, 1, 1), LENGTHS):
        wrapper.step(lengths), usual.step(lengths)
        wrapper.run(*GIVEN[PagedDecode]), usual.run(*GIVEN[PagedDecode])
    (site,) = runtime.sites
    keys = {(3, ops.ANY_LENGTH), (3, ops.length_class(1)), (3, ops.length_class(18))}
    assert set(site.entries) == keys


@pytest.mark.parametrize(("kind", "own"), [(PagedPrefill, True), (PagedDecode, False), (Mla, False)])
def test_what_a_graph_cannot_read_anew_is_left_to_the_library(runtime: Any, graph: Any, kind: type, own: bool) -> None:
    wrapper = Toy(kind(runtime), use_cuda_graph=own)
    wrapper.step((1, 1, 1))
    graph()
    assert wrapper.run(*GIVEN[kind]) is GIVEN[kind][0]
    assert runtime.declined[wrapper._adapter.name] == {Reason.CAPTURING.value: 1}


def test_a_capture_that_nobody_told_of_is_left_to_the_library(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fib_plugin.adapters.flashinfer.planned import uncapturable

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    query = type("OnDevice", (), {"is_cuda": True})()
    assert uncapturable(PagedDecode(runtime), Toy(PagedDecode(runtime)), query)  # type: ignore[arg-type]


def test_a_replay_is_recorded_with_the_lengths_it_ran_with(make_runtime: Any, dataset: Any) -> None:
    from fib_plugin.dataset import TraceSet

    runtime, held = make_runtime(tracing=True, apply=False), type("Graph", (), {})()
    wrapper = Toy(PagedDecode(runtime))
    wrapper.step((1, 1, 1))
    wrapper.run(*GIVEN[PagedDecode])
    runtime.graphs.begin(held)
    wrapper.run(*GIVEN[PagedDecode])
    runtime.graphs.end()
    wrapper.step(LENGTHS)
    runtime.graphs.replayed(held)
    assert runtime.writer.flush()
    first, replay = TraceSet.from_path(dataset).workloads[FAMILY.name]
    assert first.workload.axes["num_kv_indices"] == 3
    assert replay.workload.axes["num_kv_indices"] == sum(LENGTHS)
