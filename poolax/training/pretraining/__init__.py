"""Pretraining without labels, after which a backbone is frozen."""

from poolax.training.pretraining._images import pretrain_masked_patches as pretrain_masked_patches
from poolax.training.pretraining._schedule import Schedule as Schedule
from poolax.training.pretraining._series import pretrain_masked_series as pretrain_masked_series
from poolax.training.pretraining._texts import pretrain_next_token as pretrain_next_token
