"""Data sets of texts."""

from poolax.data._entry import Entry

ENTRIES: tuple[Entry, ...] = ()
