"""What the comparisons of poolers have in common: options, sweeps, and tables from records."""

from comparison._backbones import named_backbone as named_backbone
from comparison._chosen import named_task as named_task
from comparison._options import Options as Options
from comparison._options import PretrainingOptions as PretrainingOptions
from comparison._options import Solvers as Solvers
from comparison._run import main as main
from comparison._study import Case as Case
from comparison._study import Context as Context
from comparison._study import Study as Study
from comparison._study import with_notes as with_notes
from comparison._tables import commands as commands
from comparison._tables import has_radar as has_radar
from comparison._tables import markdown as markdown
from comparison._tables import portable_command as portable_command
from comparison._tables import published as published
from comparison._tables import tables as tables
