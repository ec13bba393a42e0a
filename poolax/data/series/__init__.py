"""Data sets of series."""

from poolax.data._entry import Entry

ENTRIES: tuple[Entry, ...] = ()
