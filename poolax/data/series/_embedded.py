"""Series that come with statsmodels: real data without a download."""

from typing import Any

import numpy as np

from poolax.data.series._series import Series, ratio_borders


def co2() -> Series:
    """Weekly carbon dioxide at Mauna Loa, March 1958 to December 2001, with 59 weeks missing.

    Returns:
        The series, ``(2284, 1)``, in parts per million by volume; NaN where nothing was measured.

    Raises:
        ImportError: if statsmodels is not installed.

    Example:
        >>> series = co2()
        >>> series.values.shape, int(np.isnan(series.values).sum())
        ((2284, 1), 59)

    Reference:
        Keeling and Whorf, "Atmospheric CO2 concentrations derived from flask air samples at sites in
        the SIO network" (2004), by statsmodels.
    """
    frame: Any = _datasets("co2").co2.load_pandas().data
    return Series(
        name="co2",
        values=frame["co2"].to_numpy(dtype=np.float64)[:, None],
        names=("co2",),
        borders=ratio_borders(len(frame)),
        source="Mauna Loa Weekly Atmospheric CO2 Data (Keeling and Whorf), by statsmodels",
        licence="public domain, as statsmodels states",
        dates=frame.index.to_numpy().astype("datetime64[s]"),
    )


def sunspots() -> Series:
    """Yearly sunspot numbers, 1700 to 2008.

    Returns:
        The series, ``(309, 1)``.

    Raises:
        ImportError: if statsmodels is not installed.

    Example:
        >>> sunspots().values[:3, 0]
        array([ 5., 11., 16.])

    Reference:
        National Geophysical Data Center, yearly sunspots data 1700-2008, by statsmodels.
    """
    frame: Any = _datasets("sunspots").sunspots.load_pandas().data
    years = frame["YEAR"].to_numpy().astype(np.int64)
    return Series(
        name="sunspots",
        values=frame["SUNACTIVITY"].to_numpy(dtype=np.float64)[:, None],
        names=("sunspots",),
        borders=ratio_borders(len(frame)),
        source="Yearly sunspots data 1700-2008 (National Geophysical Data Center), by statsmodels",
        licence="public domain, as statsmodels states",
        dates=(years - 1970).astype("datetime64[Y]").astype("datetime64[s]"),
    )


def _datasets(name: str):
    try:
        from statsmodels import datasets
    except ImportError as error:
        raise ImportError(
            f"{name}: expected statsmodels, which is not installed; pip install 'poolax[data]'"
        ) from error
    return datasets
