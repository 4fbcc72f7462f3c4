"""`python -m core COMMAND`."""

import sys

from jobdeck.core.cli import main

sys.exit(main())
