"""One file a command, found by its name. See pipeline/command.py."""
