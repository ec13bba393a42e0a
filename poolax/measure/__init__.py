"""Measured Lipschitz constants beside all bounds: of layers, one-block models and backbones.

What each is, from the smallest to the largest:

- *measured*: norm of the Jacobian at an input, exact or by Lanczos iteration;
- *found*: the largest that a search on the domain finds;
- *local*: a bound at one input, never below what is measured there;
- *tight*, *sharp*, *published*: bounds on the whole domain, never below what is found.
"""

from poolax.measure._along import along_training as along_training
from poolax.measure._along import check_along as check_along
from poolax.measure._at_inputs import AtInputs as AtInputs
from poolax.measure._at_inputs import block_at_inputs as block_at_inputs
from poolax.measure._at_inputs import block_local as block_local
from poolax.measure._at_inputs import measure_block as measure_block
from poolax.measure._attacked import attacked as attacked
from poolax.measure._backbones import measure_backbone as measure_backbone
from poolax.measure._blocks import block_bounds as block_bounds
from poolax.measure._blocks import head_bounds as head_bounds
from poolax.measure._blocks import pooler_bounds as pooler_bounds
from poolax.measure._constants import Constant as Constant
from poolax.measure._constants import constant_fields as constant_fields
from poolax.measure._constants import log10_of as log10_of
from poolax.measure._layers import LayerAt as LayerAt
from poolax.measure._layers import attend as attend
from poolax.measure._layers import layer_at as layer_at
from poolax.measure._layers import layer_bounds as layer_bounds
from poolax.measure._ledgers import backbone_ledgers as backbone_ledgers
from poolax.measure._ledgers import embeddings_domain as embeddings_domain
from poolax.measure._ledgers import pooled_ledgers as pooled_ledgers
from poolax.measure._ledgers import pooled_sizes as pooled_sizes
from poolax.measure._local import local_at_inputs as local_at_inputs
from poolax.measure._methods import by_method as by_method
from poolax.measure._methods import known as known
from poolax.measure._order import check_order as check_order
from poolax.measure._precision import without_overflow as without_overflow
from poolax.measure._search import find as find
