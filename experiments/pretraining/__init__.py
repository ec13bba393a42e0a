"""Presets of pretraining, what they read, and what their models are worth."""

from pretraining._data import Prepared as Prepared
from pretraining._data import prepare as prepare
from pretraining._options import Options as Options
from pretraining._presets import PRESETS as PRESETS
from pretraining._presets import Preset as Preset
from pretraining._tables import summary_table as summary_table
from pretraining._worth import worth_of as worth_of
