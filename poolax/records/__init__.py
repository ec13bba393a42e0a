"""Records: bounds and estimates as pytrees, and rows of JSON with what they were made with."""

from poolax._paths import write_atomically as write_atomically
from poolax.records._bounds import AttentionBound as AttentionBound
from poolax.records._bounds import BlockBound as BlockBound
from poolax.records._bounds import Bound as Bound
from poolax.records._bounds import ExpressivityBound as ExpressivityBound
from poolax.records._bounds import PoolerBound as PoolerBound
from poolax.records._domains import Domain as Domain
from poolax.records._domains import TokenRange as TokenRange
from poolax.records._environment import environment as environment
from poolax.records._estimates import ExpressivityBoundEstimate as ExpressivityBoundEstimate
from poolax.records._estimates import ExpressivityEstimate as ExpressivityEstimate
from poolax.records._estimates import NoiseCurve as NoiseCurve
from poolax.records._estimates import NormEstimate as NormEstimate
from poolax.records._estimates import SearchResult as SearchResult
from poolax.records._journal import Journal as Journal
from poolax.records._kinds import HeadRecord as HeadRecord
from poolax.records._ledger import Ledger as Ledger
from poolax.records._ledger import LedgerRow as LedgerRow
from poolax.records._plain import as_written as as_written
from poolax.records._plain import difference as difference
from poolax.records._plain import digest as digest
from poolax.records._plain import fingerprint as fingerprint
from poolax.records._rows import Records as Records
from poolax.records._schemas import check_record as check_record
from poolax.records._schemas import record_kind as record_kind
from poolax.records._states import TokenStates as TokenStates
