"""The daemon as a trainer meets it: find it, start one, keep it."""
