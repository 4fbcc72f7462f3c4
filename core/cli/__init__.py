"""The command line: what the commands share. Each command is a function in `commands/`."""
