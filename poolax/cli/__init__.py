"""The command line: ``poolax …``."""

from poolax.cli._console import COMPLETE as COMPLETE
from poolax.cli._console import DIVERGED as DIVERGED
from poolax.cli._console import FAILURE as FAILURE
from poolax.cli._console import INTERRUPTED as INTERRUPTED
from poolax.cli._console import USAGE as USAGE
from poolax.cli._main import main as main
