"""Data sets of images."""

from poolax.data._entry import Entry

ENTRIES: tuple[Entry, ...] = ()
