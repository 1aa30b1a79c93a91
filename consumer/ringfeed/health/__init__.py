"""What readers wait for: who holds a ring up, and what bounds it."""
