"""Attention: dot-product, L2 and scaled cosine, behind one Linen module.

The kinds are frozen, hashable configurations. What they share (masks, windows, additive logit
bias, rotary positions, grouped key and value heads, softmax in at least float32) is written once.
"""

from poolax.attention._core import MultiHeadAttention as MultiHeadAttention
from poolax.attention._kinds import L2 as L2
from poolax.attention._kinds import Cosine as Cosine
from poolax.attention._kinds import DotProduct as DotProduct
from poolax.attention._kinds import Kind as Kind
from poolax.attention._kinds import from_config as from_config
from poolax.attention._kinds import from_name as from_name
from poolax.attention._kinds import to_config as to_config
from poolax.attention._masks import attention_mask as attention_mask
from poolax.attention._patch_rotary import PatchRotary as PatchRotary
from poolax.attention._positions import QueryGrowth as QueryGrowth
from poolax.attention._rotary import DynamicScaling as DynamicScaling
from poolax.attention._rotary import LinearScaling as LinearScaling
from poolax.attention._rotary import Llama3Scaling as Llama3Scaling
from poolax.attention._rotary import LongRopeScaling as LongRopeScaling
from poolax.attention._rotary import Rotary as Rotary
from poolax.attention._rotary import RotaryScaling as RotaryScaling
from poolax.attention._rotary import YarnScaling as YarnScaling
from poolax.attention._rotary import yarn_magnitude as yarn_magnitude
