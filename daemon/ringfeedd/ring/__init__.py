"""The ring's decisions, without I/O: dispatch, publication, groups of readers, failed pairs."""
