#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice, from a checkout on your own machine:
#
#   bash experiments/launch/tpu_vm.sh NAME ZONE NFS_SERVER:/SHARE \
#       train --config experiments/jsonl.py --workdir runs/claims
#
# The slice exists already, for example from
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-16 \
#       --version=v2-alpha-tpuv5-lite
# and so does a share that all hosts can mount, such as Filestore; the work directory lies on it.
# Which host is which, jax asks the slice. SIGTERM on any host, such as a preemption, saves on all of
# them. When the connection breaks, the run ends. The same command goes on from the last checkpoint.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
name=$1 zone=$2 share=$3
shift 3
tpu=(gcloud compute tpus tpu-vm)
where=(--zone="$zone" --worker=all)

on_all_hosts() { "${tpu[@]}" ssh "$name" "${where[@]}" --command="$1"; }

sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
git archive --output="$sources/rft_jax.tar" HEAD
"${tpu[@]}" scp "$sources/rft_jax.tar" "$name:" "${where[@]}"

on_all_hosts "set -e
    mkdir -p rft_jax && tar -xf rft_jax.tar -C rft_jax && cd rft_jax
    command -v mount.nfs >/dev/null || { sudo apt-get update -qq && sudo apt-get install -y -qq nfs-common; }
    mountpoint -q /mnt/share || { sudo mkdir -p /mnt/share && sudo mount -t nfs '$share' /mnt/share; }
    ln -sfn /mnt/share runs
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --allow-existing --python 3.11
    python3 -m uv pip install --quiet -e '.[tpu]'"

on_all_hosts "cd rft_jax && exec .venv/bin/rft $(printf '%q ' "$@")"
