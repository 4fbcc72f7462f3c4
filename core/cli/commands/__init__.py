"""The commands of `jobdeck.core.cli.app`, a module for each kind. None is imported before it is asked for."""
