"""From the bytes of two files to the pixels of one slot."""
