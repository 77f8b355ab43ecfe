"""Python and Triton solutions: imported under names of their own, with errors their author can read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from build_cases import DEFINITION, HIDDEN, PYTHON, RETURNING, TWO_OUTPUTS, make

from fib_plugin.build import BuildError, build


def inputs(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, HIDDEN), torch.ones(HIDDEN)


def refusal(sources: str | dict[str, str], cache: Path, **spec: object) -> BuildError:
    with pytest.raises(BuildError) as caught:
        build(make(sources, **spec), DEFINITION, cache)
    return caught.value


def test_a_solution_of_one_file_is_called_with_inputs_and_outputs(tmp_path: Path) -> None:
    x, weight = inputs()
    y = torch.empty_like(x)
    build(make(PYTHON), DEFINITION, tmp_path).into(x, weight, y)
    assert torch.equal(y, x + 1)


@pytest.mark.parametrize(
    "line", ["import other", "from .other import ONE", "from other import ONE", "from . import other"]
)
def test_files_of_a_solution_find_each_other(line: str, tmp_path: Path) -> None:
    one = "ONE" if "ONE" in line else "other.ONE"
    kernel = f"{line}\n\ndef run(x, weight):\n    return x + {one}\n"
    solution = make({"kernel.py": kernel, "other.py": "ONE = 1\n"}, destination_passing_style=False)
    x, weight = inputs()
    assert torch.equal(build(solution, DEFINITION, tmp_path).call(x, weight), x + 1)


def test_a_plain_import_inside_a_function_still_finds_the_solutions_own_file(tmp_path: Path) -> None:
    kernel = "def run(x, weight):\n    import parts.late\n    return x + parts.late.ONE\n"
    solution = make({"kernel.py": kernel, "parts/late.py": "ONE = 1\n"}, destination_passing_style=False)
    x, weight = inputs()
    assert torch.equal(build(solution, DEFINITION, tmp_path).call(x, weight), x + 1)


def test_an_entry_file_in_a_folder_reaches_its_neighbours(tmp_path: Path) -> None:
    kernel = "from ..shared import ONE\n\ndef run(x, weight):\n    return x + ONE\n"
    solution = make({"deep/kernel.py": kernel, "shared.py": "ONE = 1\n"}, destination_passing_style=False)
    x, weight = inputs()
    assert torch.equal(build(solution, DEFINITION, tmp_path).call(x, weight), x + 1)


def test_two_solutions_with_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    kernel = "import constant\n\ndef run(x, weight):\n    return x + constant.VALUE\n"
    x, weight = inputs()
    built = [
        build(
            make({"kernel.py": kernel, "constant.py": f"VALUE = {value}\n"}, destination_passing_style=False),
            DEFINITION,
            tmp_path,
        )
        for value in (1, 2)
    ]
    assert [float((one.call(x, weight) - x).mean().round()) for one in built] == [1.0, 2.0]
    assert "constant" not in sys.modules


def test_an_import_error_is_a_build_error_with_the_solutions_frames_only(tmp_path: Path) -> None:
    error = refusal("import nothing_of_that_name\n\ndef run(x, weight, y): ...\n", tmp_path)
    assert "install nothing_of_that_name" in str(error)
    assert 'kernel.py", line 1' in error.log
    assert "importlib" not in error.log


def test_a_syntax_error_is_a_build_error_that_shows_the_line(tmp_path: Path) -> None:
    error = refusal("def run(x, weight, y:\n    pass\n", tmp_path)
    assert "SyntaxError" in error.log
    assert "def run(x, weight, y:" in error.log


def test_a_source_that_exits_is_a_build_error_and_not_an_exit(tmp_path: Path) -> None:
    assert "SystemExit" in str(refusal("import sys\nsys.exit(3)\n", tmp_path))


def test_a_wrong_entry_symbol_names_the_functions_that_exist(tmp_path: Path) -> None:
    assert "name one of: run" in str(refusal(PYTHON, tmp_path, entry_point="kernel.py::main"))


def test_a_function_that_cannot_take_the_outputs_is_refused_with_the_remedy(tmp_path: Path) -> None:
    error = refusal(RETURNING, tmp_path)
    assert "run(x, weight) is called with (hidden_states, weight, output)" in str(error)
    assert "set it to false" in error.remedy


def test_a_failed_import_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import os\nassert 'READY' in os.environ\n" + PYTHON
    refusal(source, tmp_path)
    monkeypatch.setenv("READY", "1")
    build(make(source), DEFINITION, tmp_path)


def test_a_solution_is_not_built_for_another_definition(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="solves"):
        build(make(PYTHON), TWO_OUTPUTS, tmp_path)


def test_a_language_without_a_builder_is_refused(tmp_path: Path) -> None:
    assert "no builder for the language tilelang" in str(refusal(PYTHON, tmp_path, language="tilelang"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_gpu_names_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "TRITON_INTERPRET=1" in str(refusal(PYTHON, tmp_path, language="triton"))
