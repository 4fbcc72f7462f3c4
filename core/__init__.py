"""The job queue, its worker and its commands. Nothing in here knows of terminals."""

import sys

# A module that is loaded under two names fills two registries. Only `python -m core` may start here.
if __name__ == "core" and sys.argv[0] != "-m":
    raise ImportError("Import jobdeck.core, not core.")
