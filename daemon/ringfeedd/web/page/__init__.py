"""The page itself: what it shows of the rings, and how that is drawn."""
