"""Data sets of series: the UCR archive, the long series of forecasting, and two embedded ones."""

from poolax.data.series._embedded import co2 as co2
from poolax.data.series._embedded import sunspots as sunspots
from poolax.data.series._entries import ENTRIES as ENTRIES
from poolax.data.series._long import read_series as read_series
from poolax.data.series._series import Series as Series
from poolax.data.series._tasks import forecasting as forecasting
from poolax.data.series._tasks import imputation as imputation
from poolax.data.series._tasks import windows as windows
from poolax.data.series._ucr import read_ucr as read_ucr
from poolax.data.series._windows import Windows as Windows
