"""Constants of a definition that are no inputs (eps, is_neox) in a source's text: lines marked ``fib: <name>``.

``EPS = 1e-6  # fib: eps`` and ``constexpr float EPS = 1e-6f;  // fib: eps`` get the definition's value; a source stays
runnable and lintable as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MARKED = re.compile(
    r"^(?P<left>.*?[^=<>!]=\s*)(?P<value>[-+.\w]+?)(?P<tail>f?;?\s*(?:#|//)\s*fib:\s*(?P<name>\w+)\s*)$"
)


class MarkError(ValueError):
    """A marked line names a constant that the definition lacks, or is no assignment."""


def fill_constants(text: str, constants: Mapping[str, object], where: str) -> str:
    """``text`` with every marked line's right-hand side set to the constant it names.

    Raises:
        MarkError: naming ``where``, the line and the constants there are.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not re.search(r"(#|//)\s*fib:\s*\w+\s*$", line):
            continue
        match = _MARKED.match(line)
        if match is None:
            raise MarkError(f"{where}:{number}: a line marked 'fib:' must be an assignment of one value")
        name = match["name"]
        if name not in constants:
            known = ", ".join(sorted(constants)) or "none"
            raise MarkError(f"{where}:{number}: the definition has no constant {name!r}; it has: {known}")
        lines[number - 1] = f"{match['left']}{_literal(constants[name], match['value'])}{match['tail']}"
    return "\n".join(lines)


def _literal(value: object, like: str) -> str:
    if like in ("True", "False"):
        return str(bool(value))
    if like in ("true", "false"):
        return str(bool(value)).lower()
    return repr(value)
