"""Data sets: named entries with fixed, recorded splits, and batches of them."""

from poolax.data._dataset import Dataset as Dataset
from poolax.data.language import next_token as next_token
from poolax.data.language import sentences as sentences
from poolax.data.language import tokenize as tokenize
from poolax.data.vision import digits as digits
