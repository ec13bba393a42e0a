"""Closed-form Lipschitz and expressivity bounds of pooled Transformers.

Every bound is a JAX scalar in a pytree record, so that ``jit``, ``vmap`` and ``grad`` work through
it. All are with respect to the Frobenius norm on sequences and the Euclidean norm on pooled
vectors, on the domain that their ``radius`` and ``spread`` describe. What docstrings cite as "Theory,
section 4.1" is printed by ``poolax docs theory 4.1``.

Bounds are made of largest and smallest values, so they have kinks, and a fresh initialisation is one:
all scales of a norm are equal there. ``grad`` is finite and one of several slopes: it gives each of the
equal scales the same share, while raising one alone raises a published or sharp bound by the whole and
lowering it does not lower the bound. Away from kinks it is the derivative.

A bound that its dtype cannot hold is infinite, which is a bound; local ones, where the model itself
overflows at the given tokens, raise where that can be seen.
"""

from poolax.bounds._attention import attention as attention
from poolax.bounds._attention import cosine_attention as cosine_attention
from poolax.bounds._attention import dot_product_attention as dot_product_attention
from poolax.bounds._attention import l2_attention as l2_attention
from poolax.bounds._block import block as block
from poolax.bounds._block import tbm as tbm
from poolax.bounds._block import with_pooler as with_pooler
from poolax.bounds._certified import certified_radius as certified_radius
from poolax.bounds._certify import certify as certify
from poolax.bounds._domain import cube as cube
from poolax.bounds._domain import domain_of as domain_of
from poolax.bounds._expressivity import expressivity as expressivity
from poolax.bounds._integral import largest_move as largest_move
from poolax.bounds._ledger import ledger as ledger
from poolax.bounds._linalg import spectral_norm as spectral_norm
from poolax.bounds._local import local_attention as local_attention
from poolax.bounds._local_ledger import local_ledger as local_ledger
from poolax.bounds._local_ledger import local_ledgers as local_ledgers
from poolax.bounds._local_tbm import local_tbm as local_tbm
from poolax.bounds._methods import METHODS as METHODS
from poolax.bounds._methods import PROVED as PROVED
from poolax.bounds._no_bound import NoBoundError as NoBoundError
from poolax.bounds._pooled_block import pooled_block as pooled_block
from poolax.bounds._pooler_rules import register_pooler as register_pooler
from poolax.bounds._pooler_rules import rules_of as rules_of
from poolax.bounds._pooling import pooler as pooler
from poolax.bounds._pooling import pooling_factor as pooling_factor
from poolax.records import AttentionBound as AttentionBound
from poolax.records import BlockBound as BlockBound
from poolax.records import Bound as Bound
from poolax.records import Certificate as Certificate
from poolax.records import Domain as Domain
from poolax.records import ExpressivityBound as ExpressivityBound
from poolax.records import ExpressivityBoundEstimate as ExpressivityBoundEstimate
from poolax.records import Ledger as Ledger
from poolax.records import LedgerRow as LedgerRow
from poolax.records import PoolerBound as PoolerBound
from poolax.records import TokenRange as TokenRange
