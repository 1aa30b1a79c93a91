"""Tiers that keep pairs from one epoch to the next: decoded in memory, encoded on disk; see docs/caches.md."""
