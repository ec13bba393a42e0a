"""What the comparisons of poolers have in common: options, sweeps, and tables from records."""

from comparison._chosen import named_task as named_task
from comparison._models import MINILM as MINILM
from comparison._models import NOT_SAID as NOT_SAID
from comparison._models import loaded as loaded
from comparison._models import name_of as name_of
from comparison._models import pretrained_of as pretrained_of
from comparison._options import Options as Options
from comparison._options import PretrainingOptions as PretrainingOptions
from comparison._options import Solvers as Solvers
from comparison._run import main as main
from comparison._study import Case as Case
from comparison._study import Context as Context
from comparison._study import Model as Model
from comparison._study import Study as Study
from comparison._study import check_backbones as check_backbones
from comparison._study import with_notes as with_notes
from comparison._tables import commands as commands
from comparison._tables import has_radar as has_radar
from comparison._tables import markdown as markdown
from comparison._tables import model_of as model_of
from comparison._tables import portable_command as portable_command
from comparison._tables import pretrained as pretrained
from comparison._tables import published as published
from comparison._tables import tables as tables
