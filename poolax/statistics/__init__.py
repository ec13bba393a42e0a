"""Metrics of predictions, and what a difference between two is worth: bootstrap and verdicts."""

from poolax.statistics._bootstrap import Resampled as Resampled
from poolax.statistics._bootstrap import compare as compare
from poolax.statistics._bootstrap import resample as resample
from poolax.statistics._evidence import RELATIONS as RELATIONS
from poolax.statistics._evidence import Evidence as Evidence
from poolax.statistics._evidence import Verdict as Verdict
from poolax.statistics._evidence import all_of as all_of
from poolax.statistics._evidence import evidence as evidence
from poolax.statistics._evidence import verdicts as verdicts
from poolax.statistics._holm import holm as holm
from poolax.statistics._intervals import Difference as Difference
from poolax.statistics._intervals import Interval as Interval
from poolax.statistics._metrics import METRICS as METRICS
from poolax.statistics._metrics import Measured as Measured
from poolax.statistics._metrics import Metric as Metric
from poolax.statistics._metrics import measure as measure
