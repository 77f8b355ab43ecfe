"""Benches every solution of tests/adversarial: how many cheats are caught, how many honest solutions are accepted.

    python scripts/bench_cheats.py [--write]

The last line is one JSON object. A cheat counts as caught when it failed for a reason that its file declares, or, where
its point is a false win, did not win. ``--write`` renews the tables in tests/adversarial/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from adversarial import table
from adversarial.room import entries
from adversarial.trial import bench_all, caught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew the tables in tests/adversarial/README.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fib-cheats-") as folder:
        fates = bench_all(Path(folder))
    ran = [entry for entry in entries() if entry.name in fates]
    cheats, honest = [e for e in ran if e.cheats], [e for e in ran if not e.cheats]
    bad = [e for e in cheats if not caught(e, fates[e.name])]
    rejected = [e for e in honest if fates[e.name].status != "PASSED"]
    for entry in (*bad, *rejected):
        fate = fates[entry.name]
        print(f"{entry.file.parent.name}/{entry.file.name}: {fate.status} {fate.foul}\n    {entry.tries}")
        print("    " + fate.log[:400].replace("\n", "\n    "))
    if arguments.write:
        table.README.write_text(table.render(fates))
    counts = {
        "cheats": len(cheats),
        "caught": len(cheats) - len(bad),
        "honest": len(honest),
        "accepted": len(honest) - len(rejected),
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
