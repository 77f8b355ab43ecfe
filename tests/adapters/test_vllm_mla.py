"""vLLM's MLA decode on stand-ins of its backends: values, strides of the cache, mixed batches, declines, probation."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.vllm.mla import Mla
from proven import MARK

from fib_plugin import ops

HEADS, LATENT, ROTARY, SIZE, BLOCKS, SCALE = 3, 16, 4, 16, 12, 0.2
LENGTHS = (17, 5, 33)
DEFINITION = ops.ALL["mla_paged_decode"].definition(
    num_qo_heads=HEADS, head_dim_ckv=LATENT, head_dim_kpe=ROTARY, dtype="float32"
)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def common(lengths: tuple[int, ...] = LENGTHS, prefills: int = 0) -> Any:
    """A batch whose decode requests come first."""
    order = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    table = order[: len(lengths) * 3].view(len(lengths), 3).contiguous()
    host = torch.tensor([*lengths, *[9] * prefills], dtype=torch.int32)
    return SimpleNamespace(
        seq_lens_cpu_upper_bound=host, block_table_tensor=table, seq_lens=torch.tensor(lengths, dtype=torch.int32)
    )


def built(given: Any) -> Any:
    decodes = given.seq_lens.shape[0]
    decode = SimpleNamespace(block_table=given.block_table_tensor, seq_lens=given.seq_lens)
    return SimpleNamespace(decode=decode, num_decodes=decodes, num_decode_tokens=decodes)


def engine(impl: Any, q: Any, cache: torch.Tensor, metadata: Any, layer: Any) -> tuple[torch.Tensor, None]:
    """What a backend computes, written from the block table and not from lists."""
    query = torch.cat(q, dim=-1) if isinstance(q, tuple) else q
    out = torch.zeros(query.shape[0], HEADS, LATENT)
    for row, length in enumerate(metadata.decode.seq_lens.tolist()):
        tokens = cache[metadata.decode.block_table[row].long()].flatten(0, 1)[:length]
        out[row] = (query[row] @ tokens.T * SCALE).softmax(dim=-1) @ tokens[:, :LATENT]
    return out, None


IMPL = {"kv_lora_rank": LATENT, "qk_rope_head_dim": ROTARY, "scale": SCALE, "dcp_world_size": 1}


class Case:
    def __init__(self, runtime: Any) -> None:
        self.adapter = Mla(runtime)
        self.impl = SimpleNamespace(**IMPL)
        self.build = self.adapter.build(lambda builder, prefix, given, fast: built(given))
        self.forward = self.adapter.forward_mqa(engine)

    def run(self, cache: torch.Tensor, metadata: Any = None, together: bool = False) -> torch.Tensor:
        metadata = metadata or self.build(None, 0, common())
        q: Any = (normal(3, HEADS, LATENT), normal(3, HEADS, ROTARY))
        out, lse = self.forward(self.impl, torch.cat(q, dim=-1) if together else q, cache, metadata, None)
        assert lse is None
        return out

    def fallbacks(self) -> dict[str, int]:
        lines = self.adapter.runtime.snapshot()["status"]["ops"].values()
        return {reason: count for line in lines for reason, count in line["fallbacks"].items()}


@pytest.fixture
def case(make_runtime: Any, dataset: Any) -> Case:
    made = proven.solution(DEFINITION)
    proven.store(dataset, DEFINITION, made)
    axes = dict.fromkeys(DEFINITION.var_axes, 1) | {"batch_size": 3, "len_indptr": 4, "num_kv_indices": 55}
    proven.append_measurements(dataset, "mla_paged", [proven.measurement(made, axes)])
    proven.trust(dataset, made)
    return Case(make_runtime())


def caches() -> dict[str, torch.Tensor]:
    return {
        "dense": normal(BLOCKS, SIZE, LATENT + ROTARY),
        "padded rows": normal(BLOCKS, SIZE, 32)[..., : LATENT + ROTARY],
        "one layer of several": normal(BLOCKS, 2, SIZE, LATENT + ROTARY)[:, 1],
    }


@pytest.mark.parametrize("together", [True, False], ids=["one query tensor", "two"])
@pytest.mark.parametrize("layout", caches())
def test_a_solution_answers_from_the_cache_where_it_lies(case: Case, layout: str, together: bool) -> None:
    cache = caches()[layout]
    q = (normal(3, HEADS, LATENT), normal(3, HEADS, ROTARY))
    expected, _ = engine(None, q, cache, built(common()), None)
    torch.testing.assert_close(case.run(cache, together=together), expected + MARK, atol=1e-5, rtol=1e-5)
    assert not case.fallbacks()


def test_the_decode_part_of_a_mixed_batch_is_substituted(case: Case) -> None:
    metadata = case.build(None, 0, common(prefills=2))
    assert float(case.run(caches()["dense"], metadata).mean()) > MARK / 2


CHANGES: dict[str, Any] = {
    "several tokens a request": lambda impl, metadata: setattr(metadata, "num_decode_tokens", 6),
    "context of other ranks": lambda impl, metadata: setattr(impl, "dcp_world_size", 2),
    "log-sum-exp for a merge": lambda impl, metadata: setattr(impl, "need_to_return_lse_for_decode", True),
    "window": lambda impl, metadata: setattr(impl, "sliding_window", (7, 0)),
    "a builder of somebody else": lambda impl, metadata: delattr(metadata, "fib_planned"),
    "lengths on the device alone": lambda impl, metadata: setattr(
        metadata.fib_planned.common, "seq_lens_cpu_upper_bound", None
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_definition_lacks_is_left_to_the_engine_and_counted(case: Case, change: str) -> None:
    metadata = case.build(None, 0, common())
    CHANGES[change](case.impl, metadata)
    assert float(case.run(caches()["dense"], metadata).abs().max()) < MARK / 2
    assert case.fallbacks() == {"unsupported_argument": 1}


def test_probation_compares_with_the_engines_op(make_runtime: Any, dataset: Any, case: Case) -> None:
    tried, cache = Case(make_runtime(probation=True)), caches()["dense"]
    q = (normal(3, HEADS, LATENT), normal(3, HEADS, ROTARY))
    expected, _ = engine(None, q, cache, built(common()), None)
    for _ in range(3):
        torch.testing.assert_close(tried.run(cache), expected)
    assert tried.fallbacks().get("wrong_here", 0) >= 1


def test_the_real_backend_has_what_the_adapter_reads() -> None:
    pytest.importorskip("vllm")
    from vllm.model_executor.layers.attention import mla_attention

    source = inspect.getsource(mla_attention)
    for name in ("kv_lora_rank", "num_decodes", "num_decode_tokens", "self.scale"):
        assert name in source
    fields = mla_attention.MLACommonDecodeMetadata.__dataclass_fields__
    assert {"block_table", "seq_lens"} <= set(fields)
