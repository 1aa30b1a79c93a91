"""What readers wait for: which reader stalls a ring, and what bounds it."""
