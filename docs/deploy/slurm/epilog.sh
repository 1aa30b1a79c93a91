#!/usr/bin/env bash
# Epilog, as root, on each node after each job: SLURM ends a cancelled job with SIGKILL, and a daemon that dies so leaves its
# rings in /dev/shm. This removes those of the job's user whose daemon is dead; rings that are served stay.
if [[ -n "${SLURM_JOB_USER:-}" ]]; then
    runuser -u "$SLURM_JOB_USER" -- /opt/ringfeed/bin/ringfeed clean --force
fi
exit 0 # an epilog that fails would drain the node
