"""Data sets: arrays in memory with fixed, recorded splits."""

from poolax.data._dataset import Dataset as Dataset
from poolax.data._digits import digits as digits
from poolax.data._sentences import sentences as sentences
