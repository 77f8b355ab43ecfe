"""fill_constants: marked lines get the definition's constants; everything else stays as it is."""

from __future__ import annotations

import pytest

from fib_plugin.ops import MarkError, fill_constants

CONSTANTS = {"eps": 1e-6, "is_neox": 1, "hidden_size": 4096, "scale": -0.5}


@pytest.mark.parametrize(
    ("line", "filled"),
    [
        ("EPS = 1e-5  # fib: eps", "EPS = 1e-06  # fib: eps"),
        ("    EPS = 1e-5  # fib: eps", "    EPS = 1e-06  # fib: eps"),
        ("EPS: float = 0.1  # fib: eps", "EPS: float = 1e-06  # fib: eps"),
        ("H=128 #fib: hidden_size", "H=4096 #fib: hidden_size"),
        ("NEOX = False  # fib: is_neox", "NEOX = True  # fib: is_neox"),
        ("NEOX = 0  # fib: is_neox", "NEOX = 1  # fib: is_neox"),
        ("S = 1.0  # fib: scale", "S = -0.5  # fib: scale"),
        ("constexpr float EPS = 1e-5f;  // fib: eps", "constexpr float EPS = 1e-06f;  // fib: eps"),
        ("constexpr double EPS = 1e-5;  // fib: eps", "constexpr double EPS = 1e-06;  // fib: eps"),
        ("static const int H = 64;  // fib: hidden_size", "static const int H = 4096;  // fib: hidden_size"),
        ("constexpr bool NEOX = false;  // fib: is_neox", "constexpr bool NEOX = true;  // fib: is_neox"),
        ("#define EPS_NAME = 3 // fib: eps", "#define EPS_NAME = 1e-06 // fib: eps"),
    ],
)
def test_a_marked_line_gets_the_constant(line: str, filled: str) -> None:
    assert fill_constants(line, CONSTANTS, "kernel") == filled


def test_a_false_constant_is_spelt_as_its_language_does() -> None:
    zero = {"is_neox": 0}
    assert fill_constants("N = True  # fib: is_neox", zero, "kernel.py") == "N = False  # fib: is_neox"
    assert fill_constants("bool N = true;  // fib: is_neox", zero, "k.cpp") == "bool N = false;  // fib: is_neox"


def test_a_filled_line_can_be_filled_again() -> None:
    once = fill_constants("constexpr float EPS = 1e-5f;  // fib: eps", CONSTANTS, "kernel")
    assert fill_constants(once, {"eps": 0.125}, "kernel") == "constexpr float EPS = 0.125f;  // fib: eps"


def test_every_other_line_is_kept_byte_for_byte() -> None:
    text = "# about fib: marks in prose\nEPS = 1e-5\n\n\tx = 'fib: eps'\r\ny = 1 / 3  # why\n"
    assert fill_constants(text, CONSTANTS, "kernel") == text


def test_all_marked_lines_of_a_text_are_filled() -> None:
    text = "A = 1  # fib: eps\nB = 2\nC = 3  # fib: hidden_size\n"
    assert fill_constants(text, CONSTANTS, "kernel") == "A = 1e-06  # fib: eps\nB = 2\nC = 4096  # fib: hidden_size\n"


def test_an_unknown_constant_is_told_with_file_line_and_the_ones_there_are() -> None:
    with pytest.raises(MarkError, match=r"kernel\.py:2: the definition has no constant 'epsilon'; it has: eps, hidd"):
        fill_constants("x = 1\nEPS = 1e-5  # fib: epsilon\n", CONSTANTS, "kernel.py")


def test_an_unknown_constant_of_a_definition_without_any_says_none() -> None:
    with pytest.raises(MarkError, match=r"it has: none"):
        fill_constants("EPS = 1e-5  # fib: eps", {}, "kernel.py")


@pytest.mark.parametrize(
    "line",
    [
        "EPS  # fib: eps",
        "use(EPS)  // fib: eps",
        "use(eps=1e-5)  # fib: eps",
        "x = a / b  # fib: eps",
        "x = ;  // fib: eps",
        "if x == 1:  # fib: eps",
        "y = x <= 1  # fib: eps",
        "#define EPS 1e-5f  // fib: eps",
    ],
)
def test_a_mark_on_what_is_no_assignment_of_one_value_is_told(line: str) -> None:
    with pytest.raises(MarkError, match=r"kernel:1: a line marked 'fib:' must be an assignment of one value"):
        fill_constants(line, CONSTANTS, "kernel")
