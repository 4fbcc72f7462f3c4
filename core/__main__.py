"""Runs a command: `python -m core COMMAND`."""

import sys

from jobdeck.core.cli.app import main

sys.exit(main())
