#!/usr/bin/env bash
# The whole loop on a real engine, on any machine: capture, benchmark, apply. Keeps its work in .demo/ (.demo-sglang/).
#
#   bash scripts/demo.sh                    under 10 minutes the first time, under 3 after that
#   bash scripts/demo.sh --engine sglang    the same on SGLang
#   bash scripts/demo.sh --fresh            forget earlier captures, measurements and builds
#   bash scripts/demo.sh --help             how many requests, rounds, workloads
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
engine=vllm
words=("$@")
for i in "${!words[@]}"; do
    case "${words[i]}" in
        --engine) engine="${words[i + 1]:-}" ;;
        --engine=*) engine="${words[i]#--engine=}" ;;
    esac
done
bash scripts/setup.sh --engine "$engine"
venv=.venv
[[ "$engine" == vllm ]] || venv=".venv-$engine"
exec "$venv/bin/python" scripts/demo "$@"
