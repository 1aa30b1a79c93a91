"""The command line: one module parses and dispatches, each other one is a command."""
