"""Writes down the signatures of an engine version that the adapters rely on: tests/contracts/ENGINE-VERSION.json.

    python scripts/snapshot_engine.py vllm 0.22.1 0.33.0
    python scripts/snapshot_engine.py vllm 0.32.0 --source DIR      # an unpacked wheel, or site-packages

Fetches each version's wheel with pip, keeps its Python files until the snapshot is written, and looks every hook target
of every adapter of that engine up in them, whatever versions the target is declared for. The sources are read, never
run: importing an engine needs its hardware. A snapshot maps each target to the signatures that the version may give it
(more than one where a condition decides), to none where it has no such function. Run it again when targets change.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from source_signatures import Source

from fib_plugin.adapter import Engine, discover

CONTRACTS = Path(__file__).parents[1] / "tests" / "contracts"
#: CUDA builds for Linux, which are the ones that every version has.
_PYTHON, _ABIS = "3.12", ("cp312", "abi3", "none")
_PLATFORMS = (
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
    *(f"manylinux_2_{v}_x86_64" for v in (39, 35, 34, 31, 28, 27, 26, 24, 17, 5)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", help="an engine that adapters are for: vllm, sglang, flashinfer")
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--source", type=Path, help="read this folder and fetch nothing")
    parser.add_argument("--out", type=Path, default=CONTRACTS)
    options = parser.parse_args()
    if options.source is not None and len(options.versions) > 1:
        parser.error("--source holds one version; name that one")
    engine, paths = declared(options.engine)
    for version in options.versions:
        if options.source is not None:
            write(engine, version, paths, options.source, options.out)
            continue
        with tempfile.TemporaryDirectory() as folder:
            unpack(engine.distributions[0], version, Path(folder))
            write(engine, version, paths, Path(folder), options.out)


def declared(name: str) -> tuple[Engine, list[str]]:
    """The engine of that name and every target in its own package that an adapter of it declares."""
    adapters = [adapter for adapter in discover() if adapter.engine.name == name]
    if not adapters:
        known = sorted({adapter.engine.name for adapter in discover()})
        raise SystemExit(f"no adapter is for an engine named {name!r}; adapters are for {', '.join(known)}")
    engine = adapters[0].engine
    return engine, sorted({t.path for adapter in adapters for t in adapter.targets if engine.owns(t)})


def unpack(distribution: str, version: str, folder: Path) -> None:
    """The Python files of the version's wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON}", f"--dest={folder}"]
    command += [f"--abi={abi}" for abi in _ABIS] + [f"--platform={platform}" for platform in _PLATFORMS]
    if subprocess.run([*command, f"{distribution}=={version}"]).returncode:
        raise SystemExit(f"pip has no wheel of {distribution} {version} (see above); --source takes an unpacked one")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])
        wheel.unlink()


def write(engine: Engine, version: str, paths: list[str], source: Path, out: Path) -> None:
    if not (source / engine.name).is_dir():
        raise SystemExit(f"{source} holds no package {engine.name}")
    tree = Source(source)
    found = {path: tree.signatures(path) for path in paths}
    file = out / f"{engine.name}-{version}.json"
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"engine": engine.name, "version": version, "targets": found}, indent=1) + "\n")
    absent = [path for path in paths if not found[path]]
    print(f"{file.name}: {len(paths) - len(absent)} of {len(paths)} targets are there")
    for path in absent:
        print(f"  not in {version}: {path}")


if __name__ == "__main__":
    main()
