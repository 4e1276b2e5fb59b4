#!/usr/bin/env bash
# The test suite, in the demo's environment plus the test tools. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
environment "[test]"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright
# Two processes, each file in one of them: its tests share what they compile.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
