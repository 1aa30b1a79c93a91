"""The reader: attach to a ring, lease slots, yield batches, reconnect after a restart."""
