"""The benchmark: Ringfeed, the least work that its task needs, and other loaders, measured side by side."""
