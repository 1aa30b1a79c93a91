"""Which pairs there are: names, templates, listings and the cached catalog."""
