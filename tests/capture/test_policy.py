"""Policy: which calls are taken, by name of what is kept, and which of them need a site that looks at every call."""

from __future__ import annotations

from typing import Any

import pytest

from fib_plugin import ops
from fib_plugin.capture.config import CaptureConfig, Limits, Rule
from fib_plugin.capture.policy import Policy
from fib_plugin.capture.policy_plan import Answer, Plan
from fib_plugin.schema import Definition

DECODE = ops.ALL["gqa_paged_decode"].definition(num_qo_heads=4, num_kv_heads=2, head_dim=8)
GEMM = ops.ALL["gemm"].definition(n=2, k=3)
SAMPLING = ops.ALL["top_p_sampling"].definition(vocab_size=8)


def plan(definition: Definition, limit: int | None = None, **rule: Any) -> Plan:
    config = CaptureConfig(default=Rule(**rule), quota=Limits(workloads_per_definition=limit))
    return Policy(config).plan(definition)


def take(found: Plan, axes: dict[str, int], key: Any = None, uuid: str | None = None) -> Answer:
    """Asks for one call, takes it if it is wanted, and lets the writer say what it became."""
    point = found.point(axes, key)
    answer = found.ask(point)
    if answer is Answer.TAKE:
        serial = found.next()
        found.took(point, serial)
        if uuid is not None:
            found.settled(serial, uuid, True)
    return answer


def decode(batch: int, kv: int) -> dict[str, int]:
    return {"batch_size": batch, "num_pages": 100, "len_indptr": batch + 1, "num_kv_indices": kv}


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_by_default_one_call_a_key_is_taken() -> None:
    found = plan(DECODE)
    answers = [take(found, decode(2, 9), key) for key in (1, 1, 2, 2)]
    assert answers == [Answer.TAKE, Answer.LEAVE, Answer.TAKE, Answer.LEAVE]


def test_first_k_takes_k_calls_of_each_key() -> None:
    found = plan(DECODE, keep="first_k_by_key", k=3)
    assert [take(found, decode(2, 9), 1) for _ in range(5)] == [Answer.TAKE] * 3 + [Answer.LEAVE] * 2
    assert take(found, decode(2, 9), 2) is Answer.TAKE


def test_calls_that_tell_only_sizes_are_kept_once_whatever_k_is() -> None:
    for keep in ("first_k_by_key", "all"):
        found = plan(GEMM, keep=keep, k=3)
        assert [take(found, {"M": m}) for m in (4, 4, 8)] == [Answer.TAKE, Answer.LEAVE, Answer.TAKE]
        assert not found.tapped


def test_all_takes_every_call() -> None:
    found = plan(DECODE, keep="all")
    assert {take(found, decode(2, 9), 1) for _ in range(20)} == {Answer.TAKE}


def test_attention_takes_k_calls_of_each_batch_size_and_length_class() -> None:
    found = plan(DECODE, keep="attention", k=2)
    # 9, 10 and 15 entries of one request are of one class, 16 of the next; the key plays no part.
    answers = [take(found, decode(1, kv), key) for key, kv in enumerate((9, 10, 15, 16))]
    assert answers == [Answer.TAKE, Answer.TAKE, Answer.LEAVE, Answer.TAKE]
    assert take(found, decode(2, 18)) is Answer.TAKE


def test_attention_of_a_definition_of_no_family_goes_by_the_axes() -> None:
    found = plan(DECODE.model_copy(update={"op_type": "custom"}), keep="attention", k=1)
    answers = [take(found, decode(1, kv)) for kv in (9, 9, 10)]
    assert answers == [Answer.TAKE, Answer.LEAVE, Answer.TAKE]


def test_a_reservoir_of_a_definition_holds_k_and_names_them() -> None:
    found = plan(SAMPLING, keep="reservoir", k=4)
    entered = 0
    for _ in range(1000):
        if found.skip:
            found.skip -= 1
            continue
        assert found.due()
        assert take(found, {"batch_size": 1}, uuid=f"w{entered}") is Answer.TAKE
        entered += 1
    held = found.sample()
    assert held is not None
    members = {uuid for _, uuid in held.members}
    assert (held.k, len(members)) == (4, 4)
    assert members | set(held.left) == {f"w{number}" for number in range(entered)}
    assert [key for key, _ in held.members] == sorted(key for key, _ in held.members)
    assert 4 < entered < 100
    assert found.taken == entered


def test_processes_of_one_seed_draw_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(pid: int) -> list[float]:
        monkeypatch.setattr("os.getpid", lambda: pid)
        found = plan(SAMPLING, keep="reservoir", k=4)
        for number in range(4):
            take(found, {"batch_size": 1}, uuid=f"w{number}")
        held = found.sample()
        assert held is not None
        return [key for key, _ in held.members]

    assert keys(1) == keys(1)
    assert not set(keys(1)) & set(keys(2))


def test_content_that_came_back_into_a_reservoir_counts_as_held() -> None:
    found = plan(SAMPLING, keep="reservoir", k=1)
    for _ in range(3):
        take(found, {"batch_size": 1}, uuid="same")
    held = found.sample()
    assert held is not None
    assert [uuid for _, uuid in held.members] == ["same"]
    assert held.left == []


def test_the_seed_decides_what_a_reservoir_holds() -> None:
    def held(seed: int) -> list[int]:
        found, entered = plan(SAMPLING, keep="reservoir", k=4, seed=seed), []
        for call in range(1000):
            if found.skip:
                found.skip -= 1
            elif found.due() and take(found, {"batch_size": 1}) is Answer.TAKE:
                entered.append(call)
        return entered

    assert held(1) == held(1)
    assert held(1) != held(2)


def test_a_reservoir_of_sampled_calls_lets_most_calls_pass() -> None:
    found = plan(SAMPLING, keep="reservoir", k=4, sample_rate=0.1)
    looks = entered = 0
    for _ in range(20_000):
        if found.skip:
            found.skip -= 1
            continue
        looks += 1
        if found.due():
            entered += take(found, {"batch_size": 1}) is Answer.TAKE
    assert 1700 < looks < 2300
    assert 4 < entered < 100


def test_a_sample_rate_takes_that_share_of_the_calls() -> None:
    found = plan(DECODE, keep="all", sample_rate=0.25)
    taken = 0
    for _ in range(10_000):
        if found.skip:
            found.skip -= 1
        elif found.due():
            taken += take(found, decode(1, 9)) is Answer.TAKE
    assert 2250 < taken < 2750


@pytest.mark.parametrize("rule", [{"keep": "off"}, {"sample_rate": 0.0}])
def test_off_takes_nothing(rule: dict[str, Any]) -> None:
    found = plan(GEMM, **rule)
    assert take(found, {"M": 4}) is Answer.LEAVE
    assert not found.on
    assert not found.tapped
    assert found.skipped == {"off": 1}


# ---- what is dumped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dump", "names"),
    [
        ("structural", {"kv_indptr", "kv_indices"}),
        ("all", {"q", "k_cache", "v_cache", "kv_indptr", "kv_indices"}),
        (("q", "no_such_input"), {"q", "kv_indptr", "kv_indices"}),
        ("none", set()),
    ],
)
def test_the_tensors_that_are_kept_by_value(dump: Any, names: set[str]) -> None:
    assert plan(DECODE, dump=dump).by_value == names


def test_without_its_structural_inputs_a_call_is_only_counted() -> None:
    found = plan(DECODE, dump="none")
    assert take(found, decode(1, 9)) is Answer.LEAVE
    assert found.skipped == {"dump_none": 1}


def test_a_call_that_has_no_structural_inputs_is_written_without_tensors() -> None:
    assert take(plan(GEMM, dump="none"), {"M": 4}) is Answer.TAKE


def test_an_input_that_the_definition_lacks_is_said_once(log: Any) -> None:
    policy = Policy(CaptureConfig(definitions={GEMM.name: Rule(dump=["A", "Z"])}))
    policy.plan(GEMM)
    policy.plan(GEMM)
    (line,) = log.warnings
    assert f"definitions.{GEMM.name}.dump names Z" in line
    assert "its inputs are A, B" in line


# ---- which sites look at every call ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "tapped"),
    [
        ({}, False),
        ({"dump": "none"}, False),
        ({"keep": "attention", "k": 1}, False),
        ({"keep": "off", "dump": "all"}, False),
        ({"k": 2}, True),
        ({"keep": "attention"}, True),
        ({"keep": "all"}, True),
        ({"keep": "reservoir"}, True),
        ({"sample_rate": 0.5}, True),
        ({"dump": "all"}, True),
        ({"dump": ["q"]}, True),
        ({"dump": ["kv_indices"]}, False),
    ],
)
def test_only_policies_beyond_the_first_call_of_a_key_need_a_tap(rule: dict[str, Any], tapped: bool) -> None:
    if rule.get("keep") == "attention":
        rule = {"k": 4, **rule}
    assert plan(DECODE, **rule).tapped is tapped


# ---- quotas and switches --------------------------------------------------------------------------------------------


def test_past_the_quota_calls_are_counted_and_one_line_is_logged(log: Any) -> None:
    found = plan(DECODE, keep="all", limit=2)
    for call in range(2):
        assert take(found, decode(1, 9), uuid=f"w{call}") is Answer.TAKE
    assert [take(found, decode(1, 9)) for _ in range(3)] == [Answer.LEAVE] * 3
    assert found.skipped == {"workload_quota": 3}
    assert not found.on
    (line,) = log.warnings
    assert "2 workloads" in line
    assert "Remedy" in line


def test_calls_of_equal_content_do_not_use_up_the_quota() -> None:
    found = plan(DECODE, keep="all", limit=2)
    for _ in range(10):
        serial = found.next()
        assert found.ask(0) is Answer.TAKE
        found.took(0, serial)
        found.settled(serial, "w", serial == 1)
    assert found.status()["written"] == 1


def test_while_the_last_of_the_quota_is_being_written_a_call_is_to_be_tried_later() -> None:
    found = plan(DECODE, keep="all", limit=1)
    serial = found.next()
    found.took(0, serial)
    assert found.ask(0) is Answer.LATER
    found.settled(serial, "", False)  # dropped
    assert found.ask(0) is Answer.TAKE


def test_while_stopped_calls_are_to_be_tried_later() -> None:
    policy = Policy(CaptureConfig())
    before = policy.plan(DECODE)
    policy.run(False)
    after = policy.plan(GEMM)
    assert (before.ask(1), after.ask(1)) == (Answer.LATER, Answer.LATER)
    assert (before.on, after.on) == (False, False)
    policy.run(True)
    assert (before.ask(1), after.ask(1)) == (Answer.TAKE, Answer.TAKE)
    assert (before.on, after.on) == (True, True)


def test_starting_does_not_undo_off_or_a_quota() -> None:
    policy = Policy(CaptureConfig(default=Rule(keep="all"), definitions={GEMM.name: Rule(keep="off")}))
    off = policy.plan(GEMM)
    full = plan(DECODE, keep="all", limit=0)
    assert full.ask(0) is Answer.LEAVE
    policy.run(True)
    full.run(True)
    assert (off.on, full.on) == (False, False)


def test_an_allowance_is_of_all_definitions_together() -> None:
    policy = Policy(CaptureConfig())
    policy.allowance.left = 2
    plans = [policy.plan(definition) for definition in (DECODE, GEMM)]
    answers = [take(found, {"M": size}, size) for size in range(2) for found in plans]
    assert answers == [Answer.TAKE, Answer.TAKE, Answer.LATER, Answer.LATER]
    assert policy.taken == 2


# ---- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_each_plan_and_the_rules_that_nothing_came_under() -> None:
    config = CaptureConfig(op_types={"gemm": Rule(dump=["A"]), "gmem": Rule()}, definitions={"nothing": Rule()})
    policy = Policy(config)
    take(policy.plan(GEMM), {"M": 4}, uuid="w")
    status = policy.status()
    assert status["unused_rules"] == ["op_types.gmem", "definitions.nothing"]
    assert status["definitions"][GEMM.name] == {
        "dump": ["A"],
        "keep": "first_k_by_key",
        "k": 1,
        "sample_rate": 1.0,
        "taken": 1,
        "written": 1,
        "skipped": {},
    }
    assert status["quota"] == {"workloads_per_definition": None, "bytes": 64 << 30}
