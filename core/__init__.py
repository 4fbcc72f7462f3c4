"""The job queue, its worker, its HTTP server and its commands. It does not depend on the dashboard."""

import sys

# A module that is loaded under two names fills two registries, so only `python -m core` may use this name.
if __name__ == "core" and sys.argv[0] != "-m":
    raise ImportError("Import jobdeck.core, not core.")
