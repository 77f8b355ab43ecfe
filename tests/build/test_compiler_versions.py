"""The compiling process against older versions of what it calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: `tvm_ffi.cpp.build` as apache-tvm-ffi 0.1.9 declares it. This one says what it was given.
OLD_BUILD = """
def build(name, *, cpp_files=None, cuda_files=None, extra_cflags=None, extra_cuda_cflags=None, extra_ldflags=None,
          extra_include_paths=None, build_directory=None, backend=None):
    assert cpp_files or cuda_files, "Either cpp_files or cuda_files must be provided."
    import json
    print(json.dumps({"cpp": cpp_files, "cuda": cuda_files, "folder": build_directory}))
"""


def test_tvm_ffi_0_1_9_is_given_its_sources_by_kind(tmp_path: Path) -> None:
    package = tmp_path / "tvm_ffi"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cpp.py").write_text(OLD_BUILD)
    sources = ["/s/a.cc", "/s/b.cu", "/s/c.cpp"]
    order = {"binding": "tvm-ffi", "name": "fib_x", "sources": sources, "include": "/s", "folder": "/out"}
    order |= {"cflags": [], "cuda_flags": [], "ldflags": []}
    found = subprocess.run(
        [sys.executable, "-m", "fib_plugin.build.compile"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert found.returncode == 0, found.stdout
    assert json.loads(found.stdout) == {"cpp": ["/s/a.cc", "/s/c.cpp"], "cuda": ["/s/b.cu"], "folder": "/out"}
