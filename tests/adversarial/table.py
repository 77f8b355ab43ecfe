"""The README of this folder, made from a run: what each solution tries and how it fared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adversarial.room import Entry, entries
from adversarial.trial import Fate, named, stopped

README = Path(__file__).parent / "README.md"

_HEAD = """# Adversaries

Solutions that cheat, which must fail for the right reason, and honest ones, however odd, which must pass. The second
line of each file declares what is expected. These tables are made by a run:

    FIB_WRITE_TABLES=1 python -m pytest tests/adversarial

A cheat whose reasons say "no win" computes the right thing and aims at a false win; it may pass, but not win.

## What stands for what

- The reference: computed by a process of its own (`bench/oracle.py`), sandboxed, that runs no solution. A reference that
  crashes, hangs or takes all memory costs its workload, which is left out with its log; a process that something else
  killed, the fork server too, is begun again.
- Old memory: outputs in shared memory, and those that a solution is given, hold poison before each judged call. What a
  solution or its allocator kept cannot be right: each trial has inputs of its own, in timed calls every row is another
  one than in the burst before, and no input set comes twice in a burst (but for `--warm`, which wins nothing).
- Any call may be looked at: bursts of about one length are on record, others of any length come in between.
- Determinism: two calls on equal inputs must agree within the definition's tolerance; whether they agree bit by bit is
  on record (`deterministic` beside the errors). Sums in no fixed order are honest. Samplers are exempt: no definition
  gives them a seed, so their answers are judged by support and distribution.
- Ghost: Triton's launches are made to do nothing, on inputs that no call has had; the answer must be wrong then. C++ and
  CUDA sources are called through one function, which is the kernel: what else could compute is seen by its name (ops of
  torch, Python made from text); on a GPU CUPTI counts launches on request.
- `plan`: a solution has one entry point, as the format says, and pays for its preparation in every call. Only an
  engine's own op prepares outside of what is timed, as its engine does once a step; how long is on record apart.
- Work beside the clock: a child is stopped with all that it started whenever it is not asked; processes and Python
  threads that are left are a foul, and so is processor time before a burst (on CPUs).
"""


def render(fates: Mapping[str, Fate]) -> str:
    """The README's text. Verdicts are by class, so that it changes only when a verdict does."""
    lines = [_HEAD, "## Cheats", "", "| name | tries | declared reasons | verdict |", "|---|---|---|---|"]
    for entry in entries():
        if entry.cheats:
            reasons = ", ".join(entry.fouls) + (", no win" if entry.only_no_win else "")
            lines.append(f"| {_link(entry)} | {entry.tries} | {reasons} | {_cheat(entry, fates.get(entry.name))} |")
    lines += ["", "## Honest", "", "| name | does | verdict |", "|---|---|---|"]
    for entry in entries():
        if not entry.cheats:
            lines.append(f"| {_link(entry)} | {entry.tries} | {_honest(fates.get(entry.name))} |")
    return "\n".join(lines) + "\n"


def same(written: str, made: str) -> bool:
    """Whether two texts agree, but for rows that only one of the two hosts had the device for."""
    old, new = written.splitlines(), made.splitlines()
    return len(old) == len(new) and all(a == b or _needs_device(a, b) for a, b in zip(old, new, strict=True))


def _needs_device(a: str, b: str) -> bool:
    unknown = "| not run: needs cuda |"
    return a.rpartition("| ")[0].rpartition("| ")[0] == b.rpartition("| ")[0].rpartition("| ")[0] and (
        a.endswith(unknown) or b.endswith(unknown)
    )


def _link(entry: Entry) -> str:
    return f"[{entry.file.stem}]({entry.file.parent.name}/{entry.file.name})"


def _cheat(entry: Entry, fate: Fate | None) -> str:
    if fate is None:
        return f"not run: needs {entry.needs}"
    if not stopped(entry, fate):
        return "**not caught**"
    return "caught" if named(entry, fate) else "failed, reason not named"


def _honest(fate: Fate | None) -> str:
    if fate is None:
        return "not run: needs cuda"
    return "accepted" if fate.status == "PASSED" else f"**{fate.status}**"
