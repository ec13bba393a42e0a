"""The command line: ``poolax …``."""

from poolax._checks import check_choice as check_choice
from poolax._checks import check_count as check_count
from poolax._checks import did_you_mean as did_you_mean
from poolax.cli._console import COMPLETE as COMPLETE
from poolax.cli._console import DIVERGED as DIVERGED
from poolax.cli._console import FAILURE as FAILURE
from poolax.cli._console import INTERRUPTED as INTERRUPTED
from poolax.cli._console import USAGE as USAGE
from poolax.cli._console import progress_bars as progress_bars
from poolax.cli._console import show as show
from poolax.cli._console import tell as tell
from poolax.cli._main import main as main
from poolax.cli._models import check_takes as check_takes
from poolax.cli._models import load_backbone as load_backbone
from poolax.cli._options import OptionalCount as OptionalCount
from poolax.cli._options import OptionalNumber as OptionalNumber
from poolax.cli._options import OptionalPath as OptionalPath
from poolax.cli._options import OptionalText as OptionalText
from poolax.cli._own_data import FileFlags as FileFlags
from poolax.cli._own_data import errors_in_file_flags as errors_in_file_flags
from poolax.cli._own_data import is_own as is_own
from poolax.cli._own_data import load_data as load_data
from poolax.cli._own_data import own_entry as own_entry
from poolax.cli._own_data import warn_of as warn_of
from poolax.cli._program import run_program as run_program
from poolax.cli._program import simulate_devices as simulate_devices
