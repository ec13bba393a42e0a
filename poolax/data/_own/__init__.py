"""A user's own data: files, folders, arrays and data sets of other libraries."""

from poolax.data._own._arrays import from_arrays as from_arrays
from poolax.data._own._from_files import from_files as from_files
