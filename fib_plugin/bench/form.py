"""Form of a child's outputs, as it described them. The examiner calls it before it takes any data from the blob."""

from __future__ import annotations

from collections.abc import Sequence

from fib_plugin import judge
from fib_plugin.bench.wire import Layout, Output
from fib_plugin.judge import TENSOR, Form, Verdict
from fib_plugin.schema import Definition


def check_form(
    definition: Definition, layout: Layout, outputs: Sequence[Output], device: str = "cpu", fewer: bool = False
) -> Verdict | None:
    """None when number, type, shape and dtype are those that ``layout`` has room for; ``fewer`` as in the judge."""
    found = [Form(output.kind, output.dtype, output.shape, output.device) for output in outputs]
    wanted = [Form(TENSOR, place.dtype, place.shape, device.split(":")[0]) for place in layout.outputs]
    return judge.check_form(definition, found, wanted, fewer)
