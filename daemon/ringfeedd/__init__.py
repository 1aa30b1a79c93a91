"""The Ringfeed daemon: fetches (image, label) pairs, decodes each once, and publishes them in shared-memory rings."""
