"""The command line. Each command is a function in `commands/`; the modules here are shared by them."""
