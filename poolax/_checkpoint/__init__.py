"""Checkpoints: arrays through Orbax, their configuration and checksums as JSON beside them.

Arrays are saved from the host, so that a checkpoint opens on any number and kind of devices, with
poolax or with Orbax alone.
"""

from poolax._checkpoint._orbax import checkpoint_steps as checkpoint_steps
from poolax._checkpoint._orbax import has_checkpoint as has_checkpoint
from poolax._checkpoint._orbax import latest_step as latest_step
from poolax._checkpoint._reading import SavedCheckpoint as SavedCheckpoint
from poolax._checkpoint._reading import checkpoint_metadata as checkpoint_metadata
from poolax._checkpoint._reading import open_checkpoint as open_checkpoint
from poolax._checkpoint._reading import restore_checkpoint as restore_checkpoint
from poolax._checkpoint._recovery import remove_checkpoints as remove_checkpoints
from poolax._checkpoint._recovery import replace_checkpoint as replace_checkpoint
from poolax._checkpoint._recovery import restore_newest as restore_newest
from poolax._checkpoint._saving import CheckpointWriter as CheckpointWriter
from poolax._checkpoint._saving import save_checkpoint as save_checkpoint
