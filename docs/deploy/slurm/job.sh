#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
# A job with a daemon of its own on each node: no root, no service. With --nodes=2 and more, the daemons share each epoch.
#   sbatch job.sh [gs://bucket/prefix [the trainer's command ...]]
set -euo pipefail
root="${1:-gs://my-bucket/prefix}"
shift || true
if [[ $# -eq 0 ]]; then
    set -- torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "$(hostname):29500" train.py
fi

# One daemon per node. The step ends when it is told to, and its failure before that ends the job.
srun --overlap --ntasks-per-node=1 ringfeed serve "$root" --num-nodes auto &
daemons=$!
stop() {
    kill -TERM "$daemons" 2>/dev/null || true
    wait "$daemons" 2>/dev/null || true
}
trap stop EXIT

# Each node waits for its own ring, unless a daemon ends before.
srun --overlap --ntasks-per-node=1 bash -c 'until ringfeed status train >/dev/null 2>&1; do sleep 1; done' &
ready=$!
wait -n "$daemons" "$ready" || true
if ! kill -0 "$daemons" 2>/dev/null; then
    kill "$ready" 2>/dev/null || true
    echo "job: a daemon ended before it was ready, see its message above" >&2
    exit 1
fi
wait "$ready"

srun --overlap --ntasks-per-node=1 "$@"
