"""Data sets: named entries with fixed, recorded splits, and batches of them."""

from poolax._dataset import Dataset as Dataset
from poolax.data import tokens as tokens
from poolax.data import unlabelled as unlabelled
from poolax.data._entry import Entry as Entry
from poolax.data._examine import Examination as Examination
from poolax.data._examine import examine as examine
from poolax.data._own import from_arrays as from_arrays
from poolax.data._own import from_files as from_files
from poolax.data._pipeline import Batch as Batch
from poolax.data._pipeline import Pipeline as Pipeline
from poolax.data._prepare import prepare as prepare
from poolax.data._prepare import way_to_prepare as way_to_prepare
from poolax.data._registry import entry as entry
from poolax.data._registry import load as load
from poolax.data._registry import names as names
from poolax.data.language import next_token as next_token
from poolax.data.language import sentences as sentences
from poolax.data.language import tokenize as tokenize
from poolax.data.vision import digits as digits
