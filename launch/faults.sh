#!/usr/bin/env bash
# The whole fault battery, in the environment of test.sh. Arguments go to pytest.
# Nothing to edit: FAULTS_KILLS in the environment says how many trainings are killed (200).
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
environment "[test]"

.venv/bin/python -m pytest -m faults tests/faults "$@"
