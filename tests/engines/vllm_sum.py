"""vllm_driver.py as a command for `fib compare`: its last line is the sum of the tokens. ``vllm_sum.py JOB.json``."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("vllm_driver.py")), run_name="__main__")
    results = json.loads(Path(json.loads(Path(sys.argv[1]).read_text())["out"]).read_text())
    print(json.dumps({"sum": sum(map(sum, results["marked"]))}))
