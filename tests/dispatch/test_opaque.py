"""Opaque ops: a compiled graph calls the body on every run, and the body can be another one tomorrow."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from fib_plugin.dispatch.opaque import Opaque, OpaqueError, observer, opaque

_numbers = itertools.count()


def fresh(body: Any) -> tuple[str, Opaque]:
    """An op that no other test has defined."""
    schema = f"test_op{next(_numbers)}(Tensor x) -> Tensor"
    return schema, opaque(schema, body, torch.empty_like)


def compiled(op: Opaque) -> Any:
    return torch.compile(lambda x: op.call(x + 1) * 2, fullgraph=True, backend="eager")


def test_a_compiled_graph_calls_the_body_on_every_run() -> None:
    seen: list[torch.Tensor] = []

    def body(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x * 10

    _, op = fresh(body)
    run = compiled(op)
    for value in (1.0, 2.0, 3.0):
        assert torch.equal(run(torch.full((2,), value)), torch.full((2,), (value + 1) * 20))
    assert [float(x[0]) for x in seen] == [2.0, 3.0, 4.0]
    assert {type(x) for x in seen} == {torch.Tensor}


def test_a_body_can_be_swapped_after_the_graph_was_compiled() -> None:
    schema, op = fresh(lambda x: x * 10)
    run = compiled(op)
    assert float(run(torch.zeros(1))) == 20.0
    assert opaque(schema, lambda x: x * 100, torch.empty_like) is op
    assert float(run(torch.zeros(1))) == 200.0
    op.body = lambda x: x * 1000
    assert float(run(torch.zeros(1))) == 2000.0


def test_a_dynamic_size_needs_no_second_graph() -> None:
    _, op = fresh(lambda x: x * 10)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    run = torch.compile(lambda x: op.call(x) + 1, fullgraph=True, backend=backend, dynamic=True)
    for rows in (2, 5, 9):
        assert torch.equal(run(torch.ones(rows)), torch.full((rows,), 11.0))
    assert len(graphs) == 1


def test_an_op_of_several_results_and_plain_arguments_goes_into_a_graph() -> None:
    name = f"test_op{next(_numbers)}"
    op = opaque(
        f"{name}(Tensor x, float eps, bool flip, Tensor? bias) -> (Tensor, Tensor)",
        lambda x, eps, flip, bias: (x + eps, -x if flip else x * 2),
        lambda x, eps, flip, bias: (torch.empty_like(x), torch.empty_like(x)),
    )
    run = torch.compile(lambda x: op.call(x, 0.5, True, None), fullgraph=True, backend="eager")
    first, second = run(torch.ones(3))
    assert torch.equal(first, torch.full((3,), 1.5))
    assert torch.equal(second, torch.full((3,), -1.0))


def test_an_error_of_the_body_reaches_the_caller() -> None:
    def body(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("from the body")

    _, op = fresh(body)
    with pytest.raises(ValueError, match="from the body"):
        op.call(torch.zeros(1))


def test_the_op_is_one_of_the_fib_namespace() -> None:
    schema, op = fresh(lambda x: x)
    name = schema.partition("(")[0]
    assert op.call is getattr(torch.ops.fib, name).default


def test_another_schema_under_the_same_name_is_refused() -> None:
    schema, op = fresh(lambda x: x * 10)
    name = schema.partition("(")[0]
    with pytest.raises(OpaqueError, match=f"fib::{name} is defined as .*take another name"):
        opaque(f"{name}(Tensor x, Tensor y) -> Tensor", lambda x, y: x, lambda x, y: x)
    assert float(op.call(torch.ones(1))) == 10.0


def test_the_op_breaks_no_graph() -> None:
    _, op = fresh(lambda x: x * 10)

    def model(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = op.call(x) / 10 + 1
        return x

    assert torch._dynamo.explain(model)(torch.zeros(2)).graph_break_count == 0


def test_an_observer_sees_every_run_of_a_compiled_graph_and_changes_nothing_in_it() -> None:
    seen: list[tuple[int, ...]] = []
    op = observer("test_seen(Tensor(a!) x) -> ()", lambda x: seen.append(tuple(x.shape)))

    weight = torch.randn(4, 4)

    def model(x: torch.Tensor) -> torch.Tensor:
        y = x @ weight
        op.call(y)
        return torch.nn.functional.silu(y) + 1

    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for rows in (2, 3, 3):
            x = torch.randn(rows, 4)
            torch.testing.assert_close(compiled(x), torch.nn.functional.silu(x @ weight) + 1)
    assert seen == [(2, 4), (3, 4), (3, 4)]
