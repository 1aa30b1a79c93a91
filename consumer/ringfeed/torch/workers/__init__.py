"""A DataLoader and its workers: what they ask of each other, and where they stand."""
