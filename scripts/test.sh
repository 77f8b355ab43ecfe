#!/usr/bin/env bash
# Sets everything up, then lint, types and all tests, those with a real engine included. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bash scripts/setup.sh --engine sglang
python="$PWD/.venv/bin/python"

"$python" -m ruff check .
"$python" -m ruff format --check .

# mypy reads no package-dir mapping: it gets a folder in which every package lies where its name says.
view=.venv/types
rm -rf "$view" && mkdir -p "$view/fib_plugin"
ln -s "$PWD"/fib_plugin/* "$PWD/adapters" "$PWD/solutions" "$view/fib_plugin/"
# displaced/ and the kernels are texts that others load, not modules of ours.
(cd "$view" && "$python" -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
    --exclude 'displaced/|solutions/' -p fib_plugin)
"$python" -m mypy scripts/demo scripts/*.py

exec "$python" -m pytest "$@"
