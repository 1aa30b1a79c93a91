"""The commands that only read the shared memory: status, errors, refresh, top."""
