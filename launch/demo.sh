#!/usr/bin/env bash
# From a fresh clone to generated video: installs, trains on the built-in toy clips, samples.
# Run it again: it installs nothing, and goes on where it stopped or says that it is done.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
environment ""

run=${1:-runs/toy}
.venv/bin/vidgen train --config=configs/toy.py --workdir="$run"
.venv/bin/vidgen evaluate "$run" --metrics=toy --clips=256
newest=$(ls "$run"/samples/step-*.mp4 | sort | tail -n 1)
echo "video: $newest"
echo "grid:  ${newest%.mp4}.png"
