"""The folders' solutions as data, and a dataset of small definitions with one op to displace, to bench them on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fib_plugin import ops
from fib_plugin.dataset import TraceSet
from fib_plugin.schema import (
    BuildSpec,
    Definition,
    Language,
    RandomInput,
    ScalarInput,
    Solution,
    SourceFile,
    Trace,
    Workload,
)

HERE = Path(__file__).parent
LANGUAGES = {".py": Language.PYTHON, ".cpp": Language.CPP}

DEFINITIONS: dict[str, Definition] = {
    "silu": ops.ALL["silu_and_mul"].definition(d=512, dtype="float32"),
    "gemm": ops.ALL["gemm"].definition(n=128, k=256, dtype="float32"),
    "norm": ops.ALL["rmsnorm"].definition(hidden_size=256, eps=1e-5, dtype="float32"),
    "rope": ops.ALL["rope"].definition(head_dim=64, rotary_dim=64, is_neox=True, dtype="float32"),
    "gqa": ops.ALL["gqa_paged_decode"].definition(
        num_qo_heads=4, num_kv_heads=2, head_dim=32, page_size=4, dtype="float32"
    ),
    "sampler": ops.ALL["top_k_top_p_sampling"].definition(vocab_size=256),
}

_AXES: dict[str, dict[str, int]] = {
    "silu": {"batch_size": 32},
    "gemm": {"M": 32},
    "norm": {"batch_size": 16},
    "rope": {"num_tokens": 8, "num_qo_heads": 4, "num_kv_heads": 2, "max_seq_len": 128},
    "gqa": {"batch_size": 4, "num_pages": 64, "len_indptr": 5, "num_kv_indices": 32},
    "sampler": {"batch_size": 4},
}

#: What the engine would run. Solutions that cheat by slowing it down must not win against it.
_DISPLACED = """# The displaced op.
import torch


def run(x):
    d = x.shape[-1] // 2
    return torch.nn.functional.silu(x[:, :d]) * x[:, d:]
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a folder: what it tries, and what its second line declares."""

    name: str
    tries: str
    fields: dict[str, str]
    file: Path

    @property
    def cheats(self) -> bool:
        return self.file.parent.name == "cheats"

    @property
    def fouls(self) -> tuple[str, ...]:
        return tuple(self.fields["foul"].split(","))

    @property
    def statuses(self) -> tuple[str, ...]:
        return tuple(self.fields["status"].split(","))

    @property
    def only_no_win(self) -> bool:
        """Its point is a false win: it may pass, since it computes the right thing, as long as it does not win."""
        return self.fields.get("win") == "no"

    @property
    def needs(self) -> str:
        return self.fields.get("needs", "")

    def solution(self) -> Solution:
        language = Language(self.fields.get("language", LANGUAGES[self.file.suffix].value))
        entry = f"kernel{self.file.suffix}"
        hardware = ["cuda"] if self.needs == "cuda" else ["cpu"]
        return Solution(
            name=self.name,
            definition=DEFINITIONS[self.fields["definition"]].name,
            author="adversary" if self.cheats else "tests",
            spec=BuildSpec(
                language=language,
                target_hardware=hardware,
                entry_point=f"{entry}::run",
                destination_passing_style=self.fields.get("into") == "1",
            ),
            sources=[SourceFile(path=entry, content=self.file.read_text())],
        )


def entries() -> list[Entry]:
    """All files of both folders; cheats first."""
    files = [f for folder in ("cheats", "honest") for f in sorted((HERE / folder).iterdir()) if f.suffix in LANGUAGES]
    return [_entry(file) for file in files]


def _entry(file: Path) -> Entry:
    tries, declared = file.read_text().splitlines()[:2]
    kind = file.parent.name
    fields = dict(part.split("=", 1) for part in declared.split(":", 1)[1].split())
    return Entry(f"{kind.removesuffix('s')}__{file.stem}", tries.strip('"/ '), fields, file)


def make_dataset(root: Path, chosen: list[Entry]) -> TraceSet:
    """A dataset of the chosen entries, one workload a definition, and one displaced op."""
    traces = TraceSet(root)
    for short, definition in DEFINITIONS.items():
        if any(entry.fields["definition"] == short for entry in chosen):
            traces.add_definition(definition)
            traces.add_workloads([_workload(short, definition)])
    silu = DEFINITIONS["silu"]
    if silu.name in traces.definitions:
        traces.add_solution(
            Solution(
                name=f"engine__{silu.name}",
                definition=silu.name,
                author="engine",
                spec=BuildSpec(
                    language=Language.PYTHON,
                    target_hardware=["cpu"],
                    entry_point="kernel.py::run",
                    destination_passing_style=False,
                ),
                sources=[SourceFile(path="kernel.py", content=_DISPLACED)],
            )
        )
    for entry in chosen:
        traces.add_solution(entry.solution())
    return traces


def _workload(short: str, definition: Definition) -> Trace:
    inputs = {
        name: RandomInput() if spec.shape is not None else ScalarInput(value=0.17)
        for name, spec in definition.inputs.items()
    }
    return Trace(definition=definition.name, workload=Workload(axes=_AXES[short], inputs=inputs, uuid=f"w-{short}"))
