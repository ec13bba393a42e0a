"""Pretraining without labels, after which a backbone is frozen."""

from poolax.training.pretraining._batches import ArrayBatches as ArrayBatches
from poolax.training.pretraining._batches import Batches as Batches
from poolax.training.pretraining._images import pretrain_masked_patches as pretrain_masked_patches
from poolax.training.pretraining._masked_patches import MaskedPatches as MaskedPatches
from poolax.training.pretraining._masked_series import MaskedSeries as MaskedSeries
from poolax.training.pretraining._matrices import spectral_norms as spectral_norms
from poolax.training.pretraining._objective import Objective as Objective
from poolax.training.pretraining._optimisation import Optimisation as Optimisation
from poolax.training.pretraining._optimisation import Plan as Plan
from poolax.training.pretraining._pretrain import pretrain as pretrain
from poolax.training.pretraining._rate import matrix_rate as matrix_rate
from poolax.training.pretraining._rate import matrix_work as matrix_work
from poolax.training.pretraining._run import Pretrained as Pretrained
from poolax.training.pretraining._schedule import Schedule as Schedule
from poolax.training.pretraining._series import pretrain_masked_series as pretrain_masked_series
from poolax.training.pretraining._simple_rules import interpolated as interpolated
from poolax.training.pretraining._simple_rules import rule_losses as rule_losses
from poolax.training.pretraining._spectral import cap_spectral_norms as cap_spectral_norms
from poolax.training.pretraining._texts import pretrain_next_token as pretrain_next_token
from poolax.training.pretraining._token_batches import TokenBatches as TokenBatches
from poolax.training.pretraining._tokens import MaskedTokens as MaskedTokens
from poolax.training.pretraining._tokens import NextToken as NextToken
from poolax.training.pretraining._trigram import Trigram as Trigram
from poolax.training.pretraining._trigram import bits_per_byte as bits_per_byte
