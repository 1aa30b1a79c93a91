"""What people and metrics read of a ring: counts, what happened lately, the log of stalls, the list of failures."""
