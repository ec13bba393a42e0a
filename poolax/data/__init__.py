"""Data sets: arrays in memory with fixed, recorded splits."""

from poolax.data._dataset import Dataset as Dataset
from poolax.data._sentences import sentences as sentences
from poolax.data.vision import digits as digits
