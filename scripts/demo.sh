#!/usr/bin/env bash
# The whole loop on a real engine, on any machine: capture, benchmark, apply. Keeps its work in .demo/.
#
#   bash scripts/demo.sh            under 10 minutes the first time, under 3 after that
#   bash scripts/demo.sh --fresh    forget earlier captures, measurements and builds
#   bash scripts/demo.sh --help     how many requests, rounds, workloads
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/demo "$@"
