#!/usr/bin/env bash
# Prolog, as root, on each node before each job, where the daemon is a service (`ringfeed install-service`) that all jobs
# share: it starts the service if it is not running, and fails, which requeues the job, if no pairs come within 10 minutes.
systemctl start ringfeed || exit 1
timeout 600 bash -c 'until /opt/ringfeed/bin/ringfeed status >/dev/null 2>&1; do sleep 1; done'
