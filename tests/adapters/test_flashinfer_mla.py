"""FlashInfer's MLA wrapper on a stand-in: values, caches side by side and apart, both ways of calling it, declines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.flashinfer.mla import Mla
from proven import MARK

from fib_plugin import ops

HEADS, LATENT, ROTARY, PAGES, SCALE = 3, 16, 4, 12, 0.2
LENGTHS = (17, 5, 33)
TOTAL = sum(LENGTHS)
DEFINITION = ops.ALL["mla_paged_decode"].definition(
    num_qo_heads=HEADS, head_dim_ckv=LATENT, head_dim_kpe=ROTARY, dtype="float32"
)
TYPES = {"q_data_type": torch.float32, "kv_data_type": torch.float32}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def starts(sizes: Any) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)


class Wrapper:
    """As the library's: remembers its plan, and computes from the pages it was planned for."""

    def __init__(self, adapter: Mla, **fields: Any) -> None:
        self.device = torch.device("cpu")
        self._kv_indices_buf = None
        vars(self).update(fields)
        self._run = adapter.wrapped_run(Wrapper.library)
        self._plan = adapter.plan(Wrapper.planned)

    def planned(self, *args: Any, **kwargs: Any) -> None:
        self.last = (args, kwargs)

    def library(self, *args: Any, **kwargs: Any) -> Any:
        self.asked = (args, kwargs)
        return "the library"

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self, *args, **kwargs)


def plan(wrapper: Wrapper, page_size: int, **changed: Any) -> torch.Tensor:
    """Plans a decode step; returns the slots of its tokens, in order."""
    counts = [-(-length // page_size) for length in LENGTHS]
    pages = starts(counts)
    order = torch.randperm(PAGES * 16 // page_size, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    given: dict[str, Any] = {
        "qo_indptr": torch.arange(len(LENGTHS) + 1, dtype=torch.int32),
        "kv_indptr": pages,
        "kv_indices": order,
        "kv_len_arr": torch.tensor(LENGTHS, dtype=torch.int32),
        "num_heads": HEADS,
        "head_dim_ckv": LATENT,
        "head_dim_kpe": ROTARY,
        "page_size": page_size,
        "causal": False,
        "sm_scale": SCALE,
        **TYPES,
        **changed,
    }
    if "metadata" in changed:
        given = {name: value for name, value in given.items() if name not in vars(changed["metadata"])}
    wrapper._plan(wrapper, **given)
    slots = [
        int(order[int(pages[row]) + at // page_size]) * page_size + at % page_size
        for row, length in enumerate(LENGTHS)
        for at in range(length)
    ]
    return torch.tensor(slots, dtype=torch.int32)


def tensors(page_size: int, joined: bool = True) -> tuple[torch.Tensor, ...]:
    """(q_nope, q_pe, ckv_cache, kpe_cache); joined: the caches are two parts of one."""
    cache = normal(PAGES * 16 // page_size, page_size, LATENT + ROTARY)
    parts = cache.split((LATENT, ROTARY), dim=-1)
    parts = parts if joined else tuple(part.contiguous() for part in parts)
    return (normal(3, HEADS, LATENT), normal(3, HEADS, ROTARY), *parts)


def expected(slots: torch.Tensor, given: tuple[torch.Tensor, ...]) -> Any:
    scope: dict[str, Any] = {}
    exec(DEFINITION.reference, scope)
    q_nope, q_pe, ckv, kpe = given
    return scope["run"](
        q_nope, q_pe, ckv.reshape(-1, 1, LATENT), kpe.reshape(-1, 1, ROTARY), starts(LENGTHS), slots, SCALE
    )


@pytest.fixture
def adapter(make_runtime: Any, dataset: Any) -> Mla:
    solution = proven.solution(DEFINITION)
    proven.store(dataset, DEFINITION, solution)
    axes = dict.fromkeys(DEFINITION.var_axes, 1) | {"batch_size": 3, "len_indptr": 4, "num_kv_indices": TOTAL}
    proven.append_measurements(dataset, DEFINITION.op_type, [proven.measurement(solution, axes)])
    proven.trust(dataset, solution)
    return Mla(make_runtime())


def fallbacks(adapter: Mla) -> dict[str, int]:
    return dict(adapter.runtime.snapshot()["status"]["ops"].get(adapter.name, {"fallbacks": {}})["fallbacks"])


@pytest.mark.parametrize("joined", [True, False], ids=["one cache", "two caches"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_a_solution_reads_the_cache_where_it_lies(adapter: Mla, page_size: int, joined: bool) -> None:
    wrapper, given = Wrapper(adapter), tensors(page_size, joined)
    output, lse = expected(plan(wrapper, page_size), given)
    torch.testing.assert_close(wrapper.run(*given), output + MARK, atol=1e-5, rtol=1e-5)
    out = torch.empty_like(output)
    found = wrapper.run(*given, out, return_lse=True)
    assert found[0] is out
    torch.testing.assert_close(out, output + MARK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], lse, atol=1e-5, rtol=1e-5)
    assert not fallbacks(adapter)


def test_newer_ways_of_planning_and_calling_are_understood(adapter: Mla) -> None:
    counts = [-(-length // 16) for length in LENGTHS]
    order = torch.randperm(PAGES, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    metadata = SimpleNamespace(
        qo_indptr=torch.arange(4, dtype=torch.int32),
        kv_indptr=starts(counts),
        kv_indices=order,
        kv_len_arr=torch.tensor(LENGTHS, dtype=torch.int32),
    )
    wrapper, given = Wrapper(adapter), tensors(16)
    slots = plan(wrapper, 16, metadata=metadata, lse_mode="base2", scale_mode="default", output_dtype=torch.float32)
    output, _ = expected(slots, given)
    found = wrapper.run(query=given[:2], kv_cache=given[2:])
    torch.testing.assert_close(found, output + MARK, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"qo_indptr": torch.tensor([0, 2, 3, 4], dtype=torch.int32)},
        {"kv_indptr": None},
        {"output_scale": "per-tensor"},
        {"scale_mode": "bmm-scalar"},
        {"lse_mode": "basee"},
        {"output_dtype": torch.float16},
        {"use_sinks": True},
        {"kv_data_type": torch.float16},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_plans_beyond_the_definition_are_left_to_the_library(adapter: Mla, changed: dict[str, Any]) -> None:
    wrapper = Wrapper(adapter)
    if changed.get("kv_indptr", wrapper) is None:
        wrapper._plan(wrapper, block_tables=torch.zeros(3, 4), page_size=16, sm_scale=SCALE, **TYPES)
    else:
        plan(wrapper, 16, **changed)
    assert wrapper.run(*tensors(16)) == "the library"
    assert fallbacks(adapter) == {"unsupported_argument": 1}


@pytest.mark.parametrize("given", [{"return_lse_base_on_e": True}, {"kv_len": torch.ones(3)}, {"sinks": torch.ones(3)}])
def test_calls_beyond_the_definition_are_left_to_the_library(adapter: Mla, given: dict[str, Any]) -> None:
    wrapper = Wrapper(adapter)
    plan(wrapper, 16)
    assert wrapper.run(*tensors(16), **given) == "the library"
    assert fallbacks(adapter) == {"unsupported_argument": 1}


def test_caches_that_one_list_cannot_index_are_left_to_the_library(adapter: Mla) -> None:
    wrapper, given = Wrapper(adapter), tensors(16)
    plan(wrapper, 16)
    padded = torch.zeros(PAGES, 17, ROTARY)[:, :16]
    assert wrapper.run(*given[:3], padded) == "the library"
    assert fallbacks(adapter) == {"unsupported_argument": 1}


def test_a_wrapper_with_a_plan_of_its_own_is_left_to_the_library(adapter: Mla) -> None:
    wrapper = Wrapper(adapter)
    plan(wrapper, 16)
    wrapper.plan = lambda *args: None  # type: ignore[attr-defined]  # what an engine's faster plan looks like
    assert wrapper.run(*tensors(16)) == "the library"
    assert fallbacks(adapter) == {"unsupported_argument": 1}


def test_probation_calls_the_library_with_what_the_call_was_given(make_runtime: Any, dataset: Any) -> None:
    proven.prove(dataset, DEFINITION, sizes=(3,))
    axes = dict.fromkeys(DEFINITION.var_axes, 1) | {"batch_size": 3, "len_indptr": 4, "num_kv_indices": TOTAL}
    proven.append_measurements(dataset, DEFINITION.op_type, [proven.measurement(proven.solution(DEFINITION), axes)])
    adapter = Mla(make_runtime(probation=True))
    wrapper, given = Wrapper(adapter), tensors(16)
    output = expected(plan(wrapper, 16), given)[0]
    seen: list[Any] = []
    wrapper._run = adapter.wrapped_run(lambda wrapper, **given: seen.append(given) or output.clone())
    for _ in range(4):
        torch.testing.assert_close(
            wrapper.run(**dict(zip(("q_nope", "q_pe", "ckv_cache", "kpe_cache"), given, strict=True))), output
        )
    assert all(set(call) == {"q_nope", "q_pe", "ckv_cache", "kpe_cache"} for call in seen)
    assert fallbacks(adapter).get("wrong_here", 0) >= 1
