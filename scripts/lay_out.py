"""Lays this package out in a folder, as an installation would, for hosts where nothing can be installed.

    export PYTHONPATH=$(python scripts/lay_out.py FOLDER)

Links to the sources, so that edits count, and the metadata by which engines find the plugin.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def lay_out(folder: Path) -> Path:
    """The folder, which is to be on PYTHONPATH."""
    package = folder / "fib_plugin"
    package.mkdir(parents=True, exist_ok=True)
    for source in (*(ROOT / "fib_plugin").iterdir(), ROOT / "adapters", ROOT / "solutions"):
        link = package / source.name
        if not link.is_symlink() and source.name != "__pycache__":
            link.symlink_to(source)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = folder / f"fib_plugin-{project['version']}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


if __name__ == "__main__":
    print(lay_out(Path(sys.argv[1]).resolve()))
