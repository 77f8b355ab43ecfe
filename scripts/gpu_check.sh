#!/usr/bin/env bash
# All GPU tests in one go, on a host with a GPU; those that need an engine run where one is installed. Needs torch and
# pytest, no network and no installation of this package. Arguments go to scripts/gpu_tests.py (--help shows them):
#
#   bash scripts/gpu_check.sh [--report FILE] [--seconds N] [TEST FILE...]
#
#   PYTHON=/path/to/python   which Python runs them (default: .venv's, else python3)
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-}"
if [[ -z "$python" ]]; then
    python=python3
    [[ -x "$repo/.venv/bin/python" ]] && python="$repo/.venv/bin/python"
fi
exec "$python" "$repo/scripts/gpu_tests.py" "$@"
