"""Presets of pretraining, what they read, and what their models are worth."""

from pretraining._data import path_of_model as path_of_model
from pretraining._data import prepare as prepare
from pretraining._data import with_mask_token as with_mask_token
from pretraining._lipschitz import norms_by_run as norms_by_run
from pretraining._lipschitz import norms_of as norms_of
from pretraining._lipschitz import norms_table as norms_table
from pretraining._options import Options as Options
from pretraining._prepared import Prepared as Prepared
from pretraining._presets import PRESETS as PRESETS
from pretraining._presets import Preset as Preset
from pretraining._processes import is_so as is_so
from pretraining._processes import join as join
from pretraining._recorded import by_attention as by_attention
from pretraining._recorded import commands as commands
from pretraining._recorded import described as described
from pretraining._recorded import loss_range as loss_range
from pretraining._recorded import published as published
from pretraining._recorded import recorded as recorded
from pretraining._tables import summary_table as summary_table
from pretraining._worth import probes_of as probes_of
from pretraining._worth import worth_of as worth_of
