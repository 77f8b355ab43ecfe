"""Rank: which part of a distributed engine this process is, as it stands in the names of shards and in the status.

Only modules that the engine has imported are asked, at the time of the first write: before, nobody knows the rank.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

#: Module of an engine -> label of a dimension and the function that returns its group.
_GROUPS = {
    "vllm.distributed.parallel_state": {
        "tp": "get_tp_group",
        "pp": "get_pp_group",
        "dp": "get_dp_group",
        "ep": "get_ep_group",
    },
    "sglang.srt.distributed.parallel_state": {
        "tp": "get_tp_group",
        "pp": "get_pp_group",
        "ep": "get_moe_ep_group",
    },
}
_SGLANG_DP = "sglang.srt.layers.dp_attention"


def rank_name() -> str:
    """The dimensions that have more than one member, tensor parallel always; else the launcher's rank.

    >>> rank_name()
    'tp1pp0dp0'
    """
    try:
        ranks = dict(_ranks())
    except Exception:  # groups of a version that we do not know
        ranks = {}
    if "tp" not in ranks:
        return _launched()
    return "".join(
        f"{label}{ranks[label][0]}"
        for label in ("tp", "pp", "dp", "ep")
        if label in ranks and (label == "tp" or ranks[label][1] > 1)
    )


def _ranks() -> Iterator[tuple[str, tuple[int, int]]]:
    """(label, (rank, members)) of what is initialised."""
    for module, groups in _GROUPS.items():
        asked = sys.modules.get(module)
        if asked is None or _ask(asked, groups["tp"]) is None:
            continue
        if module.startswith("vllm") and (size := _number("VLLM_DP_SIZE")) is not None:
            # Replicas of a dense model share no group; a group, if there is one, is listed after this and wins.
            yield "dp", (_number("VLLM_DP_RANK") or 0, size)
        for label, function in groups.items():
            group = _ask(asked, function)
            if group is not None and (label != "dp" or group.world_size > 1):
                yield label, (int(group.rank_in_group), int(group.world_size))
        attention = sys.modules.get(_SGLANG_DP) if module.startswith("sglang") else None
        if attention is not None:
            rank, size = _ask(attention, "get_attention_dp_rank"), _ask(attention, "get_attention_dp_size")
            if rank is not None and size is not None:
                yield "dp", (int(rank), int(size))
        return


def _ask(module: Any, function: str) -> Any:
    """None where there is no such function in this version, or no such group."""
    try:
        return getattr(module, function)()
    except Exception:  # engines assert that a group exists
        return None


def _launched() -> str:
    # The variables are the launcher's, not ours: one that is no number costs only the rank in file names.
    for variable in ("RANK", "LOCAL_RANK"):
        rank = _number(variable)
        if rank is not None:
            return str(rank)
    return "0"


def _number(variable: str) -> int | None:
    given = os.environ.get(variable, "")
    return int(given) if given.isascii() and given.isdigit() else None
