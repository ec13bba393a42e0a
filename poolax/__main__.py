"""``python -m poolax`` is the command line."""

import sys

from poolax.cli import main

sys.exit(main())
