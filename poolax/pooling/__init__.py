"""Poolers: from ``n`` token vectors to one, as pure functions and as Linen modules."""

from poolax.pooling._attentive import LatentAttentionPool as LatentAttentionPool
from poolax.pooling._attentive import QueryAttentionPool as QueryAttentionPool
from poolax.pooling._base import Pooler as Pooler
from poolax.pooling._hybrid import HybridPool as HybridPool
from poolax.pooling._names import FIXED_POOLERS as FIXED_POOLERS
from poolax.pooling._names import from_config as from_config
from poolax.pooling._names import from_name as from_name
from poolax.pooling._names import to_config as to_config
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
