"""Records: bounds and estimates as pytrees, and rows of JSON with what they were made with."""

from poolax.records._journal import Journal as Journal
from poolax.records._results import AttentionBound as AttentionBound
from poolax.records._results import BlockBound as BlockBound
from poolax.records._results import Bound as Bound
from poolax.records._results import Domain as Domain
from poolax.records._results import ExpressivityBound as ExpressivityBound
from poolax.records._results import ExpressivityBoundEstimate as ExpressivityBoundEstimate
from poolax.records._results import ExpressivityEstimate as ExpressivityEstimate
from poolax.records._results import Ledger as Ledger
from poolax.records._results import LedgerRow as LedgerRow
from poolax.records._results import NoiseCurve as NoiseCurve
from poolax.records._results import NormEstimate as NormEstimate
from poolax.records._results import PoolerBound as PoolerBound
from poolax.records._results import SearchResult as SearchResult
from poolax.records._results import TokenRange as TokenRange
from poolax.records._results import TokenStates as TokenStates
from poolax.records._rows import Records as Records
from poolax.records._rows import as_written as as_written
from poolax.records._rows import difference as difference
from poolax.records._rows import digest as digest
from poolax.records._rows import environment as environment
from poolax.records._rows import fingerprint as fingerprint
from poolax.records._rows import plain_json as plain_json
