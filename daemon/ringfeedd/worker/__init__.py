"""Worker processes: how they are started, what they are told, and how they download and decode pairs."""
