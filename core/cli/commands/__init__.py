"""The commands of `jobdeck.core.cli.app`, one module per kind. Each module is imported on first use."""
