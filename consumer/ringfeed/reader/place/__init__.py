"""Where a reader stands, and the iterations that move it: no I/O."""
