"""Data sets: arrays in memory with fixed, recorded splits."""

from poolax.data._dataset import Dataset as Dataset
from poolax.data.language import next_token as next_token
from poolax.data.language import sentences as sentences
from poolax.data.language import tokenize as tokenize
from poolax.data.vision import digits as digits
