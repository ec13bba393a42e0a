"""What models are pretrained on: training examples without their targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from poolax._checks import check_count, check_divides, check_instance, check_number
from poolax._dataset import Dataset
from poolax.data._own._unlabelled import read_images as read_images
from poolax.data._own._unlabelled import read_series as read_series
from poolax.data.series._series import Series
from poolax.data.series._windows import Windows

__all__ = [
    "held_out_series",
    "read_images",
    "read_series",
    "training_images",
    "training_series",
    "training_texts",
]


def training_texts(dataset: Dataset) -> list[str]:
    """Texts of the training split, each once, without those that stand in another split too.

    Of examples in several parts each part is a text; of HellaSwag the context alone, since an ending
    would tell its label.

    Args:
        dataset: A data set of texts, ``(N,)`` or ``(N, parts)``.

    Returns:
        The texts, in the order of the training split.

    Raises:
        ValueError: for inputs that are no texts.

    Example:
        >>> pairs = np.array([["a", "b"], ["b", "c"], ["c", "d"]], dtype=object)
        >>> splits = {"train": np.array([0, 1]), "test": np.array([2])}
        >>> training_texts(Dataset("pairs", pairs, np.zeros(3), splits, "none", "none"))
        ['a', 'b']
    """
    check_instance("dataset", dataset, Dataset, "a data set")
    inputs: Any = dataset.inputs
    texts = np.asarray(inputs[: len(inputs)])
    if texts.dtype.kind not in "OU" or not all(isinstance(text, str) for text in texts.ravel()):
        raise ValueError(f"dataset: expected one of texts, got {dataset.name!r}, inputs {texts.dtype}")
    if texts.ndim == 2 and dataset.num_classes == texts.shape[1] - 1:
        texts = texts[:, :1]
    others = {
        text
        for split, indices in dataset.splits.items()
        if split != "train"
        for text in texts[indices].ravel()
    }
    found = dict.fromkeys(texts[dataset.splits["train"]].ravel().tolist())
    return [text for text in found if text not in others]


def training_images(dataset: Dataset) -> np.ndarray:
    """Images of the training split, decoded.

    Args:
        dataset: A data set of images of one size.

    Returns:
        Shape ``(N, h, w, channels)``, as the data set has them; a backbone's ``preprocess`` takes them.

    Raises:
        ValueError: for inputs that are no images.

    Example:
        >>> from poolax.data import digits
        >>> training_images(digits()).shape
        (1078, 8, 8, 1)
    """
    check_instance("dataset", dataset, Dataset, "a data set")
    if len(dataset.inputs.shape) != 4:
        raise ValueError(
            f"dataset: expected images (N, h, w, channels), got {dataset.name!r}, inputs "
            f"{tuple(dataset.inputs.shape)}"
        )
    return np.asarray(dataset.inputs[dataset.splits["train"]])


def training_series(
    sources: Sequence[Dataset | Series | np.ndarray],
    *,
    num_steps: int,
    patch_len: int,
    stride: int | None = None,
) -> tuple[Float[np.ndarray, "N num_steps"], Bool[np.ndarray, "N num_steps"]]:
    """Windows of one length of the training parts of several sets, and which steps are observed.

    Each channel of a long series is a series of its own, up to where validation begins. Series that are
    longer are cut into windows; the last one ends where the series ends. Shorter ones stand at the end
    of their window, as :class:`poolax.backbones.SeriesPreprocess` pads them. Each window is brought to
    mean 0 and deviation 1, so that sets of all units mix; one that is constant becomes zeros.

    Args:
        sources: Data sets with series as inputs ``(N, steps)``, such as those of the UCR archive, long
            series (:func:`poolax.data.series.read_series`), and arrays ``(N, steps)``, all of which are
            taken, NaN where nothing was observed.
        num_steps: Steps of a window.
        patch_len: Steps of a patch of the model; windows with no patch of observed steps alone are left
            out.
        stride: Steps from the start of a window to that of the next; by default ``num_steps``.

    Returns:
        Series, shape ``(N, num_steps)``, float32, 0 where nothing was observed; and their mask.

    Raises:
        ValueError: for arguments that do not fit, other data sets, or no window.

    Example:
        >>> inputs = np.arange(24, dtype=np.float32).reshape(2, 12)
        >>> splits = {"train": np.array([0]), "test": np.array([1])}
        >>> rows = Dataset("rows", inputs, np.zeros(2), splits, "none", "none")
        >>> series, observed = training_series([rows], num_steps=8, patch_len=4)
        >>> series.shape, bool(observed.all()), series[1, :2].round(2)
        ((2, 8), True, array([-1.53, -1.09], dtype=float32))
    """
    check_count("num_steps", num_steps)
    check_count("patch_len", patch_len)
    check_divides("patch_len", patch_len, "num_steps", num_steps)
    stride = num_steps if stride is None else stride
    check_count("stride", stride)
    windows = [window for source in sources for window in _cut(_rows(source), num_steps, stride)]
    if not windows:
        raise ValueError("sources: expected series, got none")
    series = np.concatenate(windows)
    observed = ~np.isnan(series)
    whole = observed.reshape(len(series), -1, patch_len).all(axis=-1).any(axis=-1)
    series, observed = series[whole], observed[whole]
    if not len(series):
        raise ValueError(
            f"sources: expected series of {patch_len} observed steps in a patch, got none; arrays are "
            "(N, steps)"
        )
    count = observed.sum(axis=-1, keepdims=True)
    mean = np.where(observed, series, 0).sum(axis=-1, keepdims=True) / count
    centred = np.where(observed, series - mean, 0)
    scale = np.sqrt(np.square(centred).sum(axis=-1, keepdims=True) / count)
    # What is left of a constant series is rounding, which is no signal.
    is_constant = scale <= 1e-6 * np.abs(mean)
    return np.where(is_constant, 0, centred / np.where(is_constant, 1, scale)).astype(
        np.float32
    ), observed


def held_out_series(
    sources: Sequence[Dataset | Series | np.ndarray],
    *,
    num_steps: int,
    fraction: float = 0.1,
    seed: int = 0,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The training parts of several sets in two parts that share no step.

    Of sets of series whole series are held out, of a long one the end in time, of all its channels, at
    least one window. A long series without room for a window in both parts is kept whole.

    Args:
        sources: As :func:`training_series` takes them, which takes what this gives.
        num_steps: Steps of a window.
        fraction: What is held out, above 0 and below 1.
        seed: Chooses the series.

    Returns:
        What is kept, and what is held out: arrays ``(N, steps)``, at least one of each.

    Raises:
        ValueError: for arguments that do not fit, other data sets, or too few series.

    Example:
        >>> rows = np.arange(60.0).reshape(10, 6)
        >>> long = np.arange(40.0)[None]
        >>> kept, held_out = held_out_series([rows, long], num_steps=8)
        >>> [part.shape for part in kept], [part.shape for part in held_out]
        ([(9, 6), (1, 32)], [(1, 6), (1, 8)])
    """
    check_count("num_steps", num_steps)
    check_number("fraction", fraction, above=0.0, below=1.0)
    rng = np.random.default_rng(seed)
    kept, held_out = [], []
    for source in sources:
        rows = _rows(source)
        count, length = rows.shape
        if count > 1 and not isinstance(source, Series):
            number = max(1, round(fraction * count))
            order = rng.permutation(count)
            held_out.append(rows[np.sort(order[:number])])
            kept.append(rows[np.sort(order[number:])])
            continue
        number = max(num_steps, round(fraction * length))
        if length - number < num_steps:
            kept.append(rows)
            continue
        kept.append(rows[:, :-number])
        held_out.append(rows[:, -number:])
    if not kept or not held_out:
        raise ValueError(
            f"sources: expected several series, or one of {2 * num_steps} steps, to hold some out; got "
            f"{', '.join(str(part.shape) for part in kept) or 'none'}"
        )
    return kept, held_out


def _rows(source: Any) -> np.ndarray:
    """Series as rows, float64, NaN at gaps."""
    if isinstance(source, Series):
        return source.values[: source.borders[0]].T
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind != "f" or np.isinf(source).any():
            raise ValueError(
                f"sources: expected finite floats (N, steps), got {source.dtype} {source.shape}"
            )
        return np.asarray(source, np.float64)
    check_instance("sources", source, Dataset, "data sets, long series and arrays")
    if isinstance(source.inputs, Windows):
        raise ValueError(
            f"sources: expected series, got {source.name!r}, whose windows overlap; "
            "data.series.read_series gives the series that they are cut from"
        )
    if len(source.inputs.shape) != 2 or np.dtype(source.inputs.dtype).kind != "f":
        raise ValueError(
            f"sources: expected series (N, steps), got {source.name!r}, inputs "
            f"{tuple(source.inputs.shape)}"
        )
    return np.asarray(source.inputs[source.splits["train"]], np.float64)


def _cut(rows: np.ndarray, num_steps: int, stride: int) -> list[np.ndarray]:
    """Windows of rows of one length, shape ``(n, num_steps)`` each."""
    length = rows.shape[1]
    if length <= num_steps:
        return [np.pad(rows, ((0, 0), (num_steps - length, 0)), constant_values=np.nan)]
    starts = [*range(0, length - num_steps, stride), length - num_steps]
    return [rows[:, start : start + num_steps] for start in starts]
