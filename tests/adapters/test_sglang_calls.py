"""SGLang's adapters on calls as SGLang makes them, without SGLang: what is answered, what is left to the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import proven
import pytest
import torch
from fib_plugin.adapters.live.paged import DeviceStep
from fib_plugin.adapters.sglang.attention import Attention
from fib_plugin.adapters.sglang.gemm import Gemm
from fib_plugin.adapters.sglang.norm import Norm
from fib_plugin.adapters.sglang.sampling import Sampling
from fib_plugin.adapters.sglang.step import OwnStep, Steps
from proven import MARK

from fib_plugin import ops
from fib_plugin.adapter import Adapter
from fib_plugin.runtime import Runtime
from fib_plugin.schema import Definition

ROWS, N, K = 4, 6, 8


@pytest.fixture
def adapter(make_runtime: Callable[..., Runtime], dataset: Path) -> Callable[..., Any]:
    """An adapter in a runtime where a marked solution is proven at ROWS for each definition."""

    def make(kind: type[Adapter], *definitions: Definition) -> Any:
        for definition in definitions:
            after = "\n" if definition.op_type == "sampling" else proven.MARKED
            made = proven.solution(definition, f"fast__{definition.name}", after)
            proven.prove(dataset, definition, made, sizes=(ROWS,))
        return kind(make_runtime())

    return make


def unsupported(adapter: Adapter) -> int:
    return adapter.runtime.declined[adapter.name]["unsupported_argument"]


# ---- linear layers -----------------------------------------------------------------------------------------------


@pytest.fixture
def gemm(adapter: Callable[..., Any]) -> Gemm:
    found: Gemm = adapter(Gemm, ops.ALL["gemm"].definition(n=N, k=K, dtype="float32"))
    return found


def layer(**more: Any) -> Any:
    return SimpleNamespace(weight=torch.nn.Parameter(torch.randn(N, K), requires_grad=False), **more)


def stock(*args: Any, **kwargs: Any) -> str:
    return "stock"


def test_a_bias_is_added_to_what_a_solution_returns(gemm: Gemm) -> None:
    x, linear, bias = torch.randn(ROWS, K), layer(), torch.randn(N)
    out = gemm.apply(stock)(None, linear, x, bias)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, linear.weight, bias) + MARK)


def test_apply_into_fills_the_callers_tensor(gemm: Gemm) -> None:
    x, linear, output = torch.randn(ROWS, K), layer(), torch.empty(ROWS, N)
    assert gemm.apply_into(stock)(None, linear, x, output) is output
    torch.testing.assert_close(output, x @ linear.weight.T + MARK)
    bias = torch.randn(N)
    gemm.apply_into(stock)(None, linear, x, output, bias)
    torch.testing.assert_close(output, x @ linear.weight.T + MARK + bias)


def test_apply_with_addend_returns_the_sum(gemm: Gemm) -> None:
    x, linear, addend = torch.randn(ROWS, K), layer(), torch.ones(ROWS, N)
    out = gemm.apply_with_addend(stock)(None, linear, x, addend)
    torch.testing.assert_close(out, x @ linear.weight.T + MARK + 1)


def test_packed_weights_and_other_dtypes_are_left_to_the_engine(gemm: Gemm) -> None:
    x = torch.randn(ROWS, K)
    assert gemm.apply(stock)(None, layer(use_intel_amx_backend=True), x) == "stock"
    assert gemm.apply(stock)(None, layer(), x.double()) == "stock"
    assert unsupported(gemm) == 2


def test_a_known_layer_is_answered_as_at_its_first_call_and_asked_the_same(gemm: Gemm) -> None:
    linear, x = torch.nn.Module(), torch.randn(ROWS, K)
    linear.weight = torch.nn.Parameter(torch.randn(N, K), requires_grad=False)
    apply = gemm.apply(stock)
    for _ in range(3):
        torch.testing.assert_close(apply(None, linear, x), x @ linear.weight.T + MARK)
    assert apply(None, linear, x.double()) == "stock"
    deep = torch.randn(2, ROWS // 2, K)
    torch.testing.assert_close(apply(None, linear, deep), deep @ linear.weight.T + MARK)
    linear.use_intel_amx_backend = True  # type: ignore[assignment]
    assert apply(None, linear, x) == "stock"
    assert unsupported(gemm) == 2


def test_lm_head_is_multiplied_with_unless_the_engine_would_not(gemm: Gemm) -> None:
    x, head = torch.randn(ROWS, K), layer(quant_method=None)
    compute = gemm.lm_head(stock)
    torch.testing.assert_close(compute(SimpleNamespace(), x, head), x @ head.weight.T + MARK)
    assert compute(SimpleNamespace(use_fp32_lm_head=True), x, head, None, out=None) == "stock"
    assert compute(SimpleNamespace(), x, layer(quant_method=None, set_lora=None)) == "stock"
    assert unsupported(gemm) == 2


def test_what_the_engine_kept_after_an_uninstall_calls_the_engine(gemm: Gemm) -> None:
    gemm.live = False
    assert gemm.apply(stock)(None, layer(), torch.randn(ROWS, K)) == "stock"


# ---- norms -------------------------------------------------------------------------------------------------------


def norm_module(**changed: Any) -> Any:
    usual = {
        "weight": torch.nn.Parameter(torch.ones(K), requires_grad=False),
        "variance_epsilon": 1e-6,
        "variance_size_override": None,
        "has_weight": True,
        "fp32_residual": False,
        "override_orig_dtype": None,
        "cast_x_before_out_mul": False,
    }
    return SimpleNamespace(**{**usual, **changed})


@pytest.fixture
def norm(adapter: Callable[..., Any]) -> Norm:
    sizes = {"hidden_size": K, "eps": 1e-6, "dtype": "float32"}
    found: Norm = adapter(Norm, *(ops.ALL[name].definition(**sizes) for name in ("rmsnorm", "fused_add_rmsnorm")))
    return found


def test_a_norm_with_a_residual_returns_both_results(norm: Norm) -> None:
    x, residual = torch.randn(ROWS, K), torch.randn(ROWS, K)
    out, added = norm.native(stock)(norm_module(), x, residual)
    torch.testing.assert_close(added, x + residual)
    torch.testing.assert_close(
        out - MARK, torch.nn.functional.rms_norm(x + residual, (K,), eps=1e-6), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"variance_size_override": 4},
        {"has_weight": False},
        {"fp32_residual": True},
        {"override_orig_dtype": torch.float16},
        {"weight": torch.ones(K, dtype=torch.float16)},
    ],
)
def test_norms_that_the_definition_lacks_are_left_to_the_engine(norm: Norm, changed: dict[str, Any]) -> None:
    assert norm.native(stock)(norm_module(**changed), torch.randn(ROWS, K)) == "stock"
    assert unsupported(norm) == 1


def test_arguments_that_the_definition_lacks_are_left_to_the_engine(norm: Norm) -> None:
    x = torch.randn(ROWS, K)
    assert norm.native(stock)(norm_module(), x, x, x) == "stock"
    quantized = SimpleNamespace(quant_method=SimpleNamespace())
    assert norm.native(stock)(norm_module(), x, None, None, quantized) == "stock"
    assert unsupported(norm) == 2
    plain = SimpleNamespace(quant_method=type("UnquantizedLinearMethod", (), {})())
    assert norm.native(stock)(norm_module(), x, None, None, plain) != "stock"


# ---- sampling ----------------------------------------------------------------------------------------------------


def asked(k: list[int] | None, p: list[float] | None, **more: Any) -> Any:
    return SimpleNamespace(
        need_top_k_sampling=k is not None,
        need_top_p_sampling=p is not None,
        need_min_p_sampling=False,
        sampling_seed=None,
        top_ks=torch.tensor(k or [1 << 30] * ROWS, dtype=torch.int32),
        top_ps=torch.tensor(p or [1.0] * ROWS),
        **more,
    )


@pytest.fixture
def sampling(adapter: Callable[..., Any]) -> Sampling:
    families = ("top_k_sampling", "top_p_sampling", "top_k_top_p_sampling")
    found: Sampling = adapter(Sampling, *(ops.ALL[name].definition(vocab_size=16) for name in families))
    return found


def test_k_and_p_both_count_on_the_probabilities_as_they_are(sampling: Sampling) -> None:
    """Renormalised after k, the first token alone would have 0.4 / 0.7 of the mass, which is more than p."""
    given: list[Any] = []
    sampling.calls._site(16, *[torch.ones(1)] * 2).entries[ROWS] = SimpleNamespace(
        calls=0, run=lambda *inputs: given.extend(inputs) or torch.zeros(ROWS, dtype=torch.int64), trial=None
    )
    probs = torch.zeros(ROWS, 16)
    probs[:, :4] = torch.tensor([0.4, 0.3, 0.2, 0.1])
    out = sampling.tokens(stock)(None, probs, asked([2] * ROWS, [0.5] * ROWS), None, False)
    assert out.dtype is torch.int32
    torch.testing.assert_close(given[2], torch.full((ROWS,), 0.5 / 0.7))
    kept = ops.ALL["top_k_top_p_sampling"].definition(vocab_size=16)
    space: dict[str, Any] = {}
    exec(kept.reference, space)
    assert {int(t) for _ in range(50) for t in space["run"](*given)} == {0, 1}


def test_all_tokens_are_the_vocabulary_whatever_the_engine_calls_them(sampling: Sampling) -> None:
    probs = torch.eye(16)[:ROWS]
    out = sampling.tokens(stock)(None, probs, asked([1 << 30] * ROWS, None), None, False)
    assert out.tolist() == list(range(ROWS))


def test_requests_that_no_definition_expresses_are_left_to_the_engine(sampling: Sampling) -> None:
    probs = torch.eye(16)[:ROWS]
    sample = sampling.tokens(stock)
    for info in (
        SimpleNamespace(**{**vars(asked([1] * ROWS, None)), "need_min_p_sampling": True}),
        SimpleNamespace(**{**vars(asked([1] * ROWS, None)), "sampling_seed": torch.zeros(ROWS)}),
        asked([1] * ROWS, None, sampling_mask_batch_indices=torch.zeros(1)),
    ):
        assert sample(None, probs, info, None, False) == "stock"
    assert unsupported(sampling) == 3
    assert sample(None, probs, asked(None, None), None, True) == "stock"
    assert unsupported(sampling) == 3


def test_newer_versions_get_tokens_and_no_mask(sampling: Sampling) -> None:
    probs = torch.eye(16)[:ROWS]
    tokens, mask = sampling.tokens_and_mask(stock)(None, probs, asked([1] * ROWS, None), None, False)
    assert (tokens.dtype, mask) == (torch.int32, None)


# ---- attention ---------------------------------------------------------------------------------------------------

HEADS, KV_HEADS, DIM = 4, 2, 8


class Pool:
    """Keys and values of all layers, and who wrote to them."""

    def __init__(self) -> None:
        self.keys, self.values = torch.randn(2, 16, KV_HEADS, DIM).unbind()
        self.written = 0

    def get_kv_buffer(self, layer_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys, self.values

    def set_kv_buffer(self, layer: Any, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        self.written += 1
        self.keys[slots], self.values[slots] = k, v


def attention_layer(number: int = 0, **changed: Any) -> Any:
    usual = {
        "layer_id": number,
        "is_cross_attention": False,
        "attn_type": "decoder",
        "sliding_window_size": -1,
        "logit_cap": 0.0,
        "k_scale": None,
        "head_dim": DIM,
        "qk_head_dim": DIM,
        "v_head_dim": DIM,
        "tp_q_head_num": HEADS,
        "tp_k_head_num": KV_HEADS,
        "tp_v_head_num": KV_HEADS,
        "scaling": DIM**-0.5,
    }
    return SimpleNamespace(**{**usual, **changed})


def batch(mode: str, **changed: Any) -> Any:
    lengths = torch.tensor([3, 2, 3, 2])
    usual = {
        "forward_mode": SimpleNamespace(name=mode),
        "seq_lens": lengths,
        "seq_lens_cpu": lengths,
        "seq_lens_sum": 10,
        "req_pool_indices": torch.arange(ROWS),
        "spec_info": None,
        "encoder_lens": None,
        "out_cache_loc": torch.tensor([2, 5, 8, 11]),
        "extend_num_tokens": ROWS,
        "extend_seq_lens": torch.ones(ROWS, dtype=torch.int64),
    }
    return SimpleNamespace(**{**usual, **changed})


@pytest.fixture
def backend() -> Any:
    table = torch.arange(ROWS * 4).view(ROWS, 4) % 16
    return SimpleNamespace(token_to_kv_pool=Pool(), req_to_token_pool=SimpleNamespace(req_to_token=table))


@pytest.fixture
def attention(adapter: Callable[..., Any], dataset: Path) -> Attention:
    sizes = {"num_qo_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM, "dtype": "float32"}
    for name in ("gqa_paged_decode", "gqa_paged_prefill"):
        definition = ops.ALL[name].definition(**sizes)
        made = proven.solution(definition, f"fast__{definition.name}")
        axes = dict.fromkeys(definition.var_axes, 1) | {ops.ALL[name].key_axes[0]: ROWS}
        proven.store(dataset, definition, made)
        proven.append_measurements(
            dataset, "gqa_paged", [proven.measurement(made, axes | {"len_indptr": ROWS + 1, "num_kv_indices": 10})]
        )
        proven.trust(dataset, made)
    found: Attention = adapter(Attention)
    return found


def qkv() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(ROWS, HEADS * DIM), torch.randn(ROWS, KV_HEADS, DIM), torch.randn(ROWS, KV_HEADS, DIM)


@pytest.mark.parametrize(("method", "mode"), [("decode", "DECODE"), ("extend", "EXTEND")])
def test_a_solution_reads_what_was_written_for_it(attention: Attention, backend: Any, method: str, mode: str) -> None:
    out = getattr(attention, method)(stock)(backend, *qkv(), attention_layer(), batch(mode), save_kv_cache=True)
    assert backend.token_to_kv_pool.written == 1
    assert out.shape == (ROWS, HEADS * DIM)
    assert (out > MARK / 2).all()


def test_shared_keys_and_values_are_not_written_again(attention: Attention, backend: Any) -> None:
    attention.decode(stock)(backend, *qkv(), attention_layer(), batch("DECODE"), save_kv_cache=False)
    assert backend.token_to_kv_pool.written == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"sliding_window_size": 4},
        {"logit_cap": 30.0},
        {"k_scale": 1.0},
        {"attn_type": "encoder_only"},
        {"v_head_dim": 4},
    ],
)
def test_layers_that_the_definitions_lack_are_left_to_the_engine(
    attention: Attention, backend: Any, changed: dict[str, Any]
) -> None:
    call = attention.decode(stock)
    assert call(backend, *qkv(), attention_layer(**changed), batch("DECODE")) == "stock"
    assert backend.token_to_kv_pool.written == 0
    assert unsupported(attention) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"spec_info": object()},
        {"seq_lens_sum": None},
        {"forward_mode": SimpleNamespace(name="TARGET_VERIFY")},
        {"seq_lens": torch.ones(3)},
    ],
)
def test_batches_that_the_definitions_lack_are_left_to_the_engine(
    attention: Attention, backend: Any, changed: dict[str, Any]
) -> None:
    call = attention.decode(stock)
    assert call(backend, *qkv(), attention_layer(), batch("DECODE", **changed)) == "stock"
    assert call(backend, *qkv(), attention_layer(), batch("DECODE"), sinks=torch.ones(HEADS)) == "stock"
    assert unsupported(attention) == 2


def test_the_layers_of_a_pass_share_a_step_and_the_next_pass_has_another(backend: Any) -> None:
    steps, one = Steps(), batch("DECODE")
    first = steps.of(backend, attention_layer(0), one, True)
    assert isinstance(first, DeviceStep)
    assert steps.of(backend, attention_layer(1), one, True) is first
    assert steps.of(backend, attention_layer(0), one, True) is not first


def test_a_backends_own_lists_are_taken_as_they_are_and_written_down_as_far_as_used(backend: Any) -> None:
    indptr, indices = torch.tensor([0, 3, 5, 8, 10, 99], dtype=torch.int32), torch.arange(64, dtype=torch.int32)
    backend.forward_metadata = SimpleNamespace(kv_indptr=indptr, kv_indices=indices)
    step = Steps().of(backend, attention_layer(), batch("DECODE"), True)
    assert isinstance(step, OwnStep)
    assert step.lists()[1] is indices
    assert step.lists()[0].tolist() == [0, 3, 5, 8, 10]
    shown = step.shown()
    assert [each.shape for each in shown] == [(5,), (10,)]
    assert shown[0].recipe.made()[1].tolist() == list(range(10))
    assert step.length_class == ops.length_class(2)
    assert OwnStep(step.lists(), ROWS, 10, captured=True).length_class == ops.ANY_LENGTH
