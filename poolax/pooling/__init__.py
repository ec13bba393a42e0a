"""Poolers: from ``n`` token vectors to one, as pure functions and as Linen modules.

What docstrings cite as "Theory, section 6.8" is printed by ``poolax docs theory 6.8``.
"""

from poolax.pooling._attentive import LatentAttentionPool as LatentAttentionPool
from poolax.pooling._attentive import QueryAttentionPool as QueryAttentionPool
from poolax.pooling._base import Pooler as Pooler
from poolax.pooling._composed import ConcatPool as ConcatPool
from poolax.pooling._composed import NormPool as NormPool
from poolax.pooling._composed import ProjectedPool as ProjectedPool
from poolax.pooling._composed import SkipPool as SkipPool
from poolax.pooling._composed import UnitPool as UnitPool
from poolax.pooling._composed import behind as behind
from poolax.pooling._composed import parts_of as parts_of
from poolax.pooling._counted import PositionPool as PositionPool
from poolax.pooling._counted import SqrtPool as SqrtPool
from poolax.pooling._entrywise import L2Pool as L2Pool
from poolax.pooling._entrywise import LogSumExpPool as LogSumExpPool
from poolax.pooling._entrywise import l2_pool as l2_pool
from poolax.pooling._entrywise import log_sum_exp_pool as log_sum_exp_pool
from poolax.pooling._hybrid import HybridPool as HybridPool
from poolax.pooling._mixed import LayerMixPool as LayerMixPool
from poolax.pooling._names import FIXED_POOLERS as FIXED_POOLERS
from poolax.pooling._names import from_config as from_config
from poolax.pooling._names import from_name as from_name
from poolax.pooling._names import to_config as to_config
from poolax.pooling._probes import EfficientProbingPool as EfficientProbingPool
from poolax.pooling._probes import GatedAttentionPool as GatedAttentionPool
from poolax.pooling._probes import MultiMaxPool as MultiMaxPool
from poolax.pooling._probes import PositionAttentionPool as PositionAttentionPool
from poolax.pooling._reduce import AveragePool as AveragePool
from poolax.pooling._reduce import FirstPool as FirstPool
from poolax.pooling._reduce import LastPool as LastPool
from poolax.pooling._reduce import MaxPool as MaxPool
from poolax.pooling._reduce import SumPool as SumPool
from poolax.pooling._reduce import average_pool as average_pool
from poolax.pooling._reduce import first_pool as first_pool
from poolax.pooling._reduce import last_pool as last_pool
from poolax.pooling._reduce import max_pool as max_pool
from poolax.pooling._reduce import sum_pool as sum_pool
from poolax.pooling._weighted import WeightedAveragePool as WeightedAveragePool
from poolax.pooling._weighted import weighted_average_pool as weighted_average_pool
from poolax.pooling._windows import RollingPool as RollingPool
from poolax.pooling._windows import rolling_pool as rolling_pool
