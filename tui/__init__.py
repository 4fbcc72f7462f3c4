"""The terminal dashboard."""

import sys

# A module that is loaded under two names is two modules. Only `python -m tui` may start here.
if __name__ == "tui" and sys.argv[0] != "-m":
    raise ImportError("Import jobdeck.tui, not tui.")
