#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice, from any machine with gcloud:
#   bash launch/tpu_pod.sh setup              # once a slice: code and environment, on every host
#   bash launch/tpu_pod.sh train [FLAGS]      # starts, or goes on; shows what the hosts print
#   bash launch/tpu_pod.sh stop               # saves and stops; `train` goes on
# A lost connection stops nothing: `train` again shows what the running training prints.
# A preempted slice is made anew, then `setup` and `train` go on from the last checkpoint:
#   gcloud compute tpus queued-resources create NAME --node-id=NAME --zone=ZONE --spot \
#       --accelerator-type=v6e-32 --runtime-version=v2-alpha-tpuv6e
#
# To edit, here or in the environment:
set -euo pipefail
NAME=${NAME:-my-tpu}
ZONE=${ZONE:-europe-west4-a}
REPOSITORY=${REPOSITORY:-https://example.com/you/vidgen.git} # the hosts clone it
CONFIG=${CONFIG:-configs/clips128.py}
WORKDIR=${WORKDIR:-/mnt/shared/runs/tpu} # a folder that every host sees and that outlives the slice
MODE=${MODE:-mesh}                       # or pmap

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

# Part of the commands: whether the training in train.pid still runs.
running='running() { [ -f train.pid ] && grep -qs vidgen "/proc/$(cat train.pid)/cmdline"; }'

case ${1:-} in
setup)
    # The images come with Python 3.10; vidgen needs 3.11.
    on_all_hosts "set -e
        python3.11 -c 'import venv, ensurepip' 2>/dev/null ||
            { sudo apt-get update -q && sudo apt-get install -qy python3.11 python3.11-venv; }
        [ -d vidgen ] || git clone -q '$REPOSITORY' vidgen
        cd vidgen
        git pull -q --ff-only
        . launch/environment.sh
        PYTHON=python3.11 environment '[tpu]'"
    ;;
train)
    shift
    flags=$(printf '%q ' --config="$CONFIG" --workdir="$WORKDIR" \
        --config.parallel.distributed=True --config.parallel.mode="$MODE" "$@")
    # JAX learns hosts and coordinator from the TPU's metadata. The training writes to a file, so
    # that it does not depend on the connection; tail ends with it.
    on_all_hosts "cd vidgen || exit
        $running
        if running; then exec tail -n 20 --pid=\$(cat train.pid) -f train.log; fi
        touch train.log
        said=\$(wc -c <train.log)
        nohup .venv/bin/vidgen train $flags </dev/null >>train.log 2>&1 &
        echo \$! >train.pid
        tail -c +\$((said + 1)) --pid=\$! -f train.log
        code=0
        wait \$! || code=\$?
        echo \"\$(hostname): exit code \$code\"
        exit \$code"
    ;;
stop)
    on_all_hosts "cd vidgen || exit
        $running
        running || exit 0
        kill -TERM \$(cat train.pid)
        while running; do sleep 1; done
        tail -n 3 train.log"
    ;;
*)
    sed -n '2,/^$/{/^#/!q;s/^# \?//p;}' "$0" >&2
    exit 2
    ;;
esac
