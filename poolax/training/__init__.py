"""Training of heads on frozen backbones, pretraining, and checkpoints."""

from poolax._checkpoint import checkpoint_metadata as checkpoint_metadata
from poolax._checkpoint import restore_checkpoint as restore_checkpoint
from poolax._checkpoint import save_checkpoint as save_checkpoint
from poolax.training.features import extract_states as extract_states
from poolax.training.heads import Head as Head
from poolax.training.heads import HeadModule as HeadModule
from poolax.training.heads import TrainedHeads as TrainedHeads
from poolax.training.heads import load_head as load_head
from poolax.training.heads import train_heads as train_heads
from poolax.training.pretrain import pretrain_masked_patches as pretrain_masked_patches
from poolax.training.records import Records as Records
from poolax.training.sweep import head_directory as head_directory
from poolax.training.sweep import sweep as sweep
from poolax.training.sweep import sweep_states as sweep_states
from poolax.training.tasks import Classification as Classification
from poolax.training.tasks import Task as Task
from poolax.training.tbm import TrainedTBM as TrainedTBM
from poolax.training.tbm import load_tbm as load_tbm
from poolax.training.tbm import save_tbm as save_tbm
