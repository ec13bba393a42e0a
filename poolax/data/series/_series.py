"""A long series with its borders, and the normalisation that they fix."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

SPLITS = ("train", "validation", "test")
HOURS_PER_MONTH = 30 * 24


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Channels over time, and where training, validation and test end.

    Attributes:
        name: Short name, as records hold it.
        values: Shape ``(time, channels)``, float64; NaN where nothing was observed.
        names: Names of the channels; the last one is the target.
        borders: Steps at which the training, validation and test parts end. What comes after the last
            one belongs to none of them.
        source: Where the series comes from.
        licence: Licence of the series.
        dates: Time of each step, ``(time,)``; ``None`` where none are given.
        notes: What was decided or found when it was read.
        file: Where it was read from, for errors: a line of names, then a line for each step; ``None``
            where it comes from no such file.

    Example:
        >>> import numpy as np
        >>> values = np.arange(20.0)[:, None]
        >>> series = Series("ramp", values, ("level",), (14, 16, 20), "none", "none")
        >>> series.statistics()[0]  # of the first 14 steps
        array([6.5])
    """

    name: str
    values: Float[np.ndarray, "time channels"]
    names: tuple[str, ...]
    borders: tuple[int, int, int]
    source: str
    licence: str
    dates: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    file: str | None = None

    def __post_init__(self):
        """Refuse parts that do not fit each other, and infinite values."""
        if self.values.ndim != 2 or self.values.dtype != np.float64:
            raise ValueError(
                f"values: expected float64 (time, channels) for {self.name!r}, got "
                f"{self.values.dtype} {self.values.shape}"
            )
        num_steps, num_channels = self.values.shape
        if len(self.names) != num_channels:
            raise ValueError(f"names: expected {num_channels} for {self.name!r}, got {len(self.names)}")
        train, validation, test = self.borders
        if not 0 < train < validation < test <= num_steps:
            raise ValueError(
                f"borders: expected increasing ends within the {num_steps} steps of {self.name!r}, "
                f"got {train}, {validation}, {test}"
            )
        if self.dates is not None and len(self.dates) != num_steps:
            raise ValueError(f"dates: expected {num_steps} for {self.name!r}, got {len(self.dates)}")
        if np.isinf(self.values).any():
            row, column = np.argwhere(np.isinf(self.values))[0]
            raise ValueError(
                f"{self._where(row, column)}: expected a finite number, got {self.values[row, column]}"
            )

    def statistics(self) -> tuple[Float[np.ndarray, "channels"], Float[np.ndarray, "channels"]]:
        """Mean and standard deviation of each channel in the training part.

        The standard deviation is the population's, over the steps that were observed; a channel that
        is constant in the training part has scale 1.

        Returns:
            Means and scales.

        Raises:
            ValueError: if a channel was never observed in the training part.
        """
        from sklearn.preprocessing import StandardScaler

        part = self.values[: self.borders[0]]
        empty = np.isnan(part).all(axis=0)
        if empty.any():
            name = self.names[int(np.argmax(empty))]
            raise ValueError(
                f"values: expected observed steps in the training part of {name!r}, got none"
            )
        scaler: Any = StandardScaler().fit(part)
        return scaler.mean_, scaler.scale_

    def check_observed(self) -> None:
        """Refuse steps that were not observed."""
        missing = np.argwhere(np.isnan(self.values))
        if len(missing):
            row, column = missing[0]
            raise ValueError(
                f"{self._where(row, column)}: expected a number, got NaN ({len(missing)} in all); "
                "missing='drop' leaves out windows that touch one, missing='keep' shows it as missing"
            )

    def _where(self, row: int, column: int) -> str:
        """What an error calls a value."""
        place = f"values of {self.name!r}, row {row}"
        if self.file is not None:
            place = f"{self.file}, line {row + 2}"
        return f"{place}, column {self.names[column]!r}"


def ratio_borders(num_steps: int) -> tuple[int, int, int]:
    """Ends of 70 % training, 10 % validation and 20 % test, rounded as in the standard protocol.

    Reference:
        Wu et al., "Autoformer" (NeurIPS 2021), ``Dataset_Custom`` of the released data loader.
    """
    train, test = int(num_steps * 0.7), int(num_steps * 0.2)
    return train, num_steps - test, num_steps


def month_borders(steps_per_hour: int) -> tuple[int, int, int]:
    """Ends of 12, 4 and 4 months of 30 days, as the ETT series are split.

    Reference:
        Zhou et al., "Informer" (AAAI 2021), ``Dataset_ETT_hour`` and ``Dataset_ETT_minute`` of the
        released data loader.
    """
    month = HOURS_PER_MONTH * steps_per_hour
    return 12 * month, 16 * month, 20 * month
