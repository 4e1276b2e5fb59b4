#!/usr/bin/env bash
# Several processes on this machine, for several CPU sockets or to try things; one process alone
# drives all GPUs of a machine (vidgen train --config.parallel.mode=mesh). Nothing to edit:
#   bash launch/local.sh N [--max_restarts=R] [--heartbeat=S] [--devices=K] -- train --config=FILE \
#       --workdir=RUN --config.parallel.mode=mesh
# Paths are relative to the repository's folder. What it prints and returns: launch/README.md
set -euo pipefail
cd "$(dirname "$0")/.."
processes=${1:?how many processes? as in: bash launch/local.sh 2 -- train ...}
shift
. launch/environment.sh
environment ""

exec .venv/bin/vidgen launch --processes="$processes" "$@" # exec: signals reach the launcher
