"""Do substituted ops really answer in a vLLM on this GPU: eager, compiled with piecewise graphs, full CUDA graphs.

    python scripts/gpu_watermarks.py [--report FILE] [--models llama qwen3_moe_fp8_block] [--modes eager compiled full]

For each model (two layers, random weights): a stock run that is captured, then one engine a mode in which every op has
a solution with the reference's values and a watermark that is switched between generations (watermarks.py). With all
marks off the tokens must be stock's, but where stock itself wavers (two tokens almost equally likely: in bfloat16 two
right kernels need not agree on them); with the mark of one op on they must change. One line a section, and all of it in
the report as it comes; exit status 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from make_model import KINDS  # noqa: E402

MODES: dict[str, dict[str, Any]] = {
    "eager": {"enforce_eager": True},
    "compiled": {"compilation_config": {"cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": [1, 2, 4]}},
    "full": {"compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE", "cudagraph_capture_sizes": [1, 2, 4]}},
}
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16], [17, 18, 19], [20, 21, 22, 23, 24, 25]]
LENGTH = 12
SAMPLINGS = {
    "top_k_sampling": {"temperature": 0.8, "top_k": 1},
    "top_p_sampling": {"temperature": 0.8, "top_p": 1e-6},
    "top_k_top_p_sampling": {"temperature": 0.8, "top_k": 1, "top_p": 0.5},
}
#: Two tokens this near in log-probability may change places between two right kernels.
NEAR = {"bfloat16": 0.25, "float16": 0.1, "float32": 1e-3}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, default=Path("watermarks.json"))
    parser.add_argument("--models", nargs="+", default=["qwen3_moe", "llama"], choices=KINDS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=tuple(MODES))
    parser.add_argument("--dtype", default="bfloat16", choices=tuple(NEAR))
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=350, help="no section begins after them")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(json.loads(options.serve.read_text()))
        return 0
    began, report = time.monotonic(), Report(options.report, options)
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            bench = Bench(Path(folder) / model, model, options)
            stock: dict[str, Any] | None = None
            for mode in ["stock", *options.modes]:
                if time.monotonic() - began > options.seconds:
                    report.add({"model": model, "mode": mode, "ok": False, "problem": "no time was left"})
                    continue
                if mode == "stock":
                    stock = bench.stock()
                    report.add(stock["section"])
                elif stock is None or not stock["section"]["ok"]:
                    report.add({"model": model, "mode": mode, "ok": False, "problem": "the stock run failed"})
                else:
                    report.add(bench.marked(mode, stock))
    report.end(time.monotonic() - began)
    return 0 if report.ok else 1


class Report:
    """Sections as they come, on the disk and on the terminal."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        import torch  # noqa: F401  # the environment's device is the GPU once torch is there

        from fib_plugin.dataset import current_environment

        environment = current_environment()
        self._path = path
        self._made: dict[str, Any] = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "device": environment.hardware,
            "versions": environment.libs,
            "dtype": options.dtype,
            "sections": [],
        }

    @property
    def ok(self) -> bool:
        sections = self._made["sections"]
        return bool(sections) and all(section["ok"] for section in sections)

    def add(self, section: dict[str, Any]) -> None:
        self._made["sections"].append(section)
        self._write()
        print(json.dumps(section), flush=True)

    def end(self, seconds: float) -> None:
        self._made |= {"ok": self.ok, "seconds": round(seconds)}
        self._write()
        print(f"{'all held' if self.ok else 'NOT all held'} after {seconds:.0f} s: {self._path}", flush=True)

    def _write(self) -> None:
        self._path.write_text(json.dumps(self._made, indent=1) + "\n")


class Bench:
    """One model's folder: checkpoint, captured dataset, forged dataset, one process an engine."""

    def __init__(self, folder: Path, model: str, options: argparse.Namespace) -> None:
        from make_model import make

        folder.mkdir(parents=True)
        self._folder, self._model, self._options = folder, model, options
        dim = options.head_dim
        make(folder / "model", model, options.dtype, hidden=4 * dim, intermediate=8 * dim, heads=4, kv_heads=2, dense=1)
        self._captured, self._forged = folder / "captured", folder / "forged"

    def stock(self) -> dict[str, Any]:
        """The engine's own answers, with every call written down."""
        from engines.forge import forge
        from watermarks import solution

        left = self._run("stock", "eager", self._captured, {"FIB_ENABLE_TRACING": "1"}, marks=False)
        section = {"model": self._model, "mode": "stock", "ok": "problem" not in left, **_brief(left)}
        if section["ok"]:
            forge(self._captured, self._forged, solution)
            section["definitions"] = sorted(p.stem for p in (self._forged / "definitions").rglob("*.json"))
        return {"section": section, "answers": left.get("answers", {})}

    def marked(self, mode: str, stock: dict[str, Any]) -> dict[str, Any]:
        """All ops substituted: what each mark changed."""
        environment = {"FIB_ENABLE_APPLY": "1", "FIB_PROBATION": "0"}
        left = self._run(mode, mode, self._forged, environment, marks=True)
        section = {"model": self._model, "mode": mode, "ok": False, **_brief(left)}
        if "problem" in left:
            return section
        near, answers, families = NEAR[self._options.dtype], left["answers"], left["families"]
        right = {name: compare(stock["answers"][name], answers[name], near) for name in stock["answers"]}
        changed = {name: differ(answers[home(name)], answers[f"marked {name}"]) for name in families}
        section |= {
            "right": right,
            "changed_by_mark": changed,
            "ops": {
                name: {"substituted": line["substituted"], "fallbacks": line["fallbacks"]}
                for name, line in left["status"]["ops"].items()
            },
            "ok": all(changed.values()) and all(line["ok"] for line in right.values()),
        }
        return section

    def _run(self, name: str, mode: str, dataset: Path, environment: dict[str, str], marks: bool) -> dict[str, Any]:
        job, out = self._folder / f"{name}.job.json", self._folder / f"{name}.out.json"
        settings = {"model": str(self._folder / "model"), "mode": mode, "dtype": self._options.dtype}
        job.write_text(json.dumps({**settings, "out": str(out), "marks": marks}))
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_"))}
        quiet = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # FlashInfer's samplers are compiled on their first call, for minutes; the hook is the same.
            "VLLM_USE_FLASHINFER_SAMPLER": "0",
            # Of the experts' kernels Triton's needs no compiler either.
            "VLLM_USE_FLASHINFER_MOE_FP16": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CACHE_ROOT": str(self._folder / "vllm"),
            # Norms leave compiled graphs only where they are named.
            "FIB_ADAPTERS": "vllm,vllm.norm",
            "FIB_DATASET_PATH": str(dataset),
            "FIB_CACHE_PATH": str(self._folder / f"{name}.cache"),
            "FIB_LOCK_PATH": str(dataset.parent / f"{dataset.name}.lock"),
        }
        command = [sys.executable, __file__, "--serve", str(job)]
        done = subprocess.run(command, env=clean | quiet | environment, capture_output=True, text=True)
        left: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        if done.returncode or "status" not in left:
            tail = (done.stdout + done.stderr).splitlines()[-25:]
            left |= {"problem": f"the engine ended with {done.returncode}", "log": tail}
        return left


def _brief(left: dict[str, Any]) -> dict[str, Any]:
    return {key: left[key] for key in ("start_s", "problem", "log") if key in left}


def home(family: str) -> str:
    """The generation without a mark that a marked one is held against."""
    return family if family in SAMPLINGS else "greedy"


def differ(right: dict[str, Any], marked: dict[str, Any]) -> bool:
    return bool(right["tokens"] != marked["tokens"])


def compare(stock: dict[str, Any], ours: dict[str, Any], near: float) -> dict[str, Any]:
    """How far two right runs agree: up to the first token of each request on which stock itself wavers."""
    same, wavers, wrong, furthest = 0, 0, [], 0.0
    for request, (theirs, mine) in enumerate(zip(stock["tokens"], ours["tokens"], strict=True)):
        for at, (a, b) in enumerate(zip(theirs, mine, strict=True)):
            if a == b:
                same += 1
                furthest = max(furthest, abs(stock["logprobs"][request][at] - ours["logprobs"][request][at]))
                continue
            margin = stock["margins"][request][at]
            wavers += margin < near
            wrong += [[request, at, a, b, round(margin, 3)]] if margin >= near else []
            break
    total = sum(map(len, stock["tokens"]))
    found: dict[str, Any] = {"ok": not wrong and same > 0, "same_tokens": same, "of": total, "wavers": wavers}
    return found | {"logprob_off_by": round(furthest, 4)} | ({"wrong": wrong} if wrong else {})


def serve(job: dict[str, Any]) -> None:
    """One engine: generates with each mark in turn and writes what came out."""
    import torch
    from watermarks import raise_flags

    gpu = torch.cuda.is_available()
    flags = raise_flags("cuda" if gpu else "cpu")
    from gpu_logprobs import answer
    from vllm import LLM, SamplingParams

    began = time.monotonic()
    llm = LLM(
        model=job["model"],
        dtype=job["dtype"],
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=256,
        enable_prefix_caching=False,
        seed=0,
        **MODES[job["mode"]],
        **({"gpu_memory_utilization": 0.3} if gpu else {}),
    )
    left: dict[str, Any] = {"start_s": round(time.monotonic() - began, 1), "answers": {}}

    def generate(name: str, sampling: dict[str, Any]) -> None:
        params = SamplingParams(max_tokens=LENGTH, ignore_eos=True, logprobs=2, **{"temperature": 0.0, **sampling})
        prompts: Any = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
        left["answers"][name] = answer(llm.generate(prompts, params, use_tqdm=False))

    for name, sampling in {"greedy": {}, **SAMPLINGS}.items():
        generate(name, sampling)
    from fib_plugin import plugin

    active = plugin.active()
    assert active is not None, "the plugin is not active in this engine"
    if job["marks"]:
        families = {family for family in flags if active.runtime.candidates(family)}
        left["families"] = sorted(families)
        for family in left["families"]:
            flags[family].fill_(1.0)
            generate(f"marked {family}", SAMPLINGS.get(family, {}))
            flags[family].fill_(0.0)
    left["status"] = active.runtime.snapshot()["status"]
    plugin.deactivate()
    Path(job["out"]).write_text(json.dumps(left))


if __name__ == "__main__":
    sys.exit(main())
