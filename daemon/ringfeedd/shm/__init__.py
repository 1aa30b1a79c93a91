"""The daemon's side of the shared memory: the segments it writes, and the lock that makes it the only writer."""
