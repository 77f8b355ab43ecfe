"""A call of a library inside an op that an engine's adapter looks at is not counted again, whatever family it is of."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fib_plugin.adapters.flashinfer.attention import RaggedPrefill
from fib_plugin.adapters.live.nesting import inside, within
from fib_plugin.adapters.sglang.attention import Attention

ROWS, HEADS, KV, DIM = 4, 4, 2, 8


def test_an_op_is_marked_while_it_runs_and_on_its_own_thread() -> None:
    elsewhere: list[bool] = []

    def op() -> bool:
        thread = threading.Thread(target=lambda: elsewhere.append(inside()))
        thread.start()
        thread.join()
        return inside()

    assert within(op) is True
    assert within(within, op) is True
    assert elsewhere == [False, False]
    assert not inside()


def test_the_mark_is_gone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        within(lambda: 1 / 0)
    assert not inside()


def test_a_compiler_sees_the_call_alone() -> None:
    compiled = torch.compile(lambda x: within(lambda y: y + 1, x), fullgraph=True, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [2.0, 2.0]


# ---- SGLang's FlashInfer backend: one prefill is a ragged part and a paged one ---------------------------------------


class Backend:
    """Attends to new tokens with a ragged wrapper of FlashInfer's, as the engine's backend does."""

    def __init__(self, library: Any) -> None:
        table = torch.arange(ROWS * 4).view(ROWS, 4)
        keys = torch.zeros(16, KV, DIM)
        self.token_to_kv_pool = SimpleNamespace(get_kv_buffer=lambda layer: (keys, keys))
        self.req_to_token_pool = SimpleNamespace(req_to_token=table)
        starts = torch.arange(ROWS + 1, dtype=torch.int32)
        plain = {"_causal": True, "_sm_scale": None, "_jit_module": None, "fib_planned": (starts, starts)}
        self.wrapper = SimpleNamespace(**plain, fib_step=None)
        self.run = library.wrapped_run(lambda wrapper, q, k, v, **more: q)

    def forward_extend(self, q: Any, k: Any, v: Any, layer: Any, batch: Any, save: bool = True, **more: Any) -> Any:
        return self.run(self.wrapper, q.view(ROWS, HEADS, DIM), k, v)


def layer(**changed: Any) -> Any:
    usual = {
        "layer_id": 0,
        "is_cross_attention": False,
        "attn_type": "decoder",
        "sliding_window_size": -1,
        "logit_cap": 0.0,
        "k_scale": None,
        "scaling": 0.3,
    }
    dims = dict.fromkeys(("head_dim", "qk_head_dim", "v_head_dim"), DIM)
    heads = {"tp_q_head_num": HEADS, "tp_k_head_num": KV, "tp_v_head_num": KV}
    return SimpleNamespace(**{**usual, **dims, **heads, **changed})


def batch(**changed: Any) -> Any:
    lengths = torch.full((ROWS,), 2)
    usual = {
        "forward_mode": SimpleNamespace(name="EXTEND"),
        "seq_lens": lengths,
        "seq_lens_cpu": lengths,
        "seq_lens_sum": 2 * ROWS,
        "req_pool_indices": torch.arange(ROWS),
        "spec_info": None,
        "encoder_lens": None,
        "extend_num_tokens": ROWS,
        "extend_seq_lens": torch.ones(ROWS, dtype=torch.int64),
    }
    return SimpleNamespace(**{**usual, **changed})


def calls(runtime: Any) -> dict[str, int]:
    return {site.adapter: sum(entry.calls for entry in site.all_entries()) for site in runtime.sites}


def prefill(runtime: Any, **changed: Any) -> None:
    backend, qkv = Backend(RaggedPrefill(runtime)), (torch.ones(ROWS, HEADS * DIM), *torch.ones(2, ROWS, KV, DIM))
    call = Attention(runtime).extend(lambda backend, *args, **more: backend.forward_extend(*args, **more))
    call(backend, *qkv, layer(), batch(**changed))


def test_a_prefill_that_the_engines_adapter_counts_is_counted_once(make_runtime: Any) -> None:
    runtime = make_runtime(tracing=True)
    prefill(runtime)
    assert calls(runtime) == {"sglang.attention": 1}


def test_a_batch_that_it_declines_is_the_librarys(make_runtime: Any) -> None:
    runtime = make_runtime(tracing=True)
    prefill(runtime, spec_info=object())
    assert calls(runtime) == {"flashinfer.ragged_prefill": 1}
    assert runtime.declined["sglang.attention"]["unsupported_argument"] == 1


def test_without_the_engines_adapter_the_library_counts_it(make_runtime: Any) -> None:
    runtime = make_runtime(tracing=True)
    Backend(RaggedPrefill(runtime)).forward_extend(torch.ones(ROWS, HEADS * DIM), *torch.ones(2, ROWS, KV, DIM), 0, 0)
    assert calls(runtime) == {"flashinfer.ragged_prefill": 1}
