"""Forecasting and imputation data sets from a long series."""

from typing import Literal

import numpy as np

from poolax._checks import check_choice, check_count, check_number
from poolax._dataset import Dataset
from poolax.data.series._series import SPLITS, Series
from poolax.data.series._windows import Channels, Cut, Missing, Windows, cut_windows

_EPS = 1e-5  # as MOMENT's reversible normalisation adds to the deviation
_CHUNK = 4096


def forecasting(
    series: Series,
    *,
    context: int = 512,
    horizon: int = 96,
    stride: int = 1,
    channels: Channels = "all",
    normalize: Literal["train", "none"] = "train",
    instance_norm: bool = True,
    missing: Missing = "error",
) -> Dataset:
    r"""Windows of which the end is to be predicted from the beginning.

    Each channel of each window is a sample of its own. A model predicts
    :math:`(y - \text{shift}) / \text{scale}`, so that its error is measured in units of ``values``,
    that is of the series normalised by its training part.

    The horizons of a split lie in it, and the contexts of its first windows reach back into the split
    before, as in the standard protocol: a part of ``n`` steps has ``n - horizon + 1`` windows a
    channel, the training part ``n - context - horizon + 1``.

    Args:
        series: The series.
        context: Steps that are seen.
        horizon: Steps that are predicted.
        stride: Steps from the start of a window to that of the next, in every split.
        channels: ``"all"``, ``"target"`` (the last one), or indices.
        normalize: ``"train"`` for the mean and deviation of each channel in the training part,
            ``"none"`` for values as they are.
        instance_norm: Shift and scale are the mean and the (biased) deviation plus 1e-5 of what is
            seen; otherwise 0 and 1.
        missing: What to do about gaps. ``"error"``: refuse them; ``"drop"``: leave out windows that
            touch one, counted in the notes; ``"keep"``: gaps in the context are NaN, those in the
            horizon are not scored, and windows that lack the whole of either are left out.

    Returns:
        Inputs float32 ``(N, context)``, read when indexed; targets ``"values" (N, horizon)``,
        ``"shift" (N,)`` and ``"scale" (N,)``, held in memory: ``stride`` thins series of many channels.
        Samples stand by split, then channel, then time.

    Raises:
        ValueError: if a part is shorter than context and horizon, or has gaps that are not allowed.

    Example:
        >>> import numpy as np
        >>> series = Series("wave", np.sin(np.arange(100.0))[:, None], ("x",), (70, 80, 100), "", "")
        >>> data = forecasting(series, context=16, horizon=4)
        >>> {split: len(indices) for split, indices in data.splits.items()}
        {'train': 51, 'validation': 7, 'test': 17}
        >>> data.inputs[:2].shape, data.targets["values"].shape
        ((2, 16), (75, 4))

    Reference:
        Zhou et al., "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting"
        (AAAI 2021); Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models"
        (ICML 2024).
    """
    check_count("horizon", horizon)
    cut = cut_windows(
        series,
        context=context,
        horizon=horizon,
        stride=stride,
        channels=channels,
        normalize=normalize,
        missing=missing,
    )
    inputs = Windows(cut.values, cut.rows, context)
    values = Windows(cut.values, cut.rows + context, horizon)[:]
    return _dataset(series, cut, inputs, values, instance_norm, ())


def imputation(
    series: Series,
    *,
    context: int = 512,
    span: int = 8,
    fraction: float = 0.25,
    stride: int | None = None,
    channels: Channels = "all",
    normalize: Literal["train", "none"] = "train",
    instance_norm: bool = True,
    missing: Missing = "error",
    seed: int = 0,
) -> Dataset:
    """Windows of which spans are hidden and to be filled in.

    A window is divided into spans of equal length, of which the given fraction is hidden, drawn for
    each window on its own and the same in every run. Windows lie within a split: all of their steps can
    be scored, and those of another split must not be.

    Args:
        series: The series.
        context: Steps of a window.
        span: Steps of a span; divides ``context``.
        fraction: Share of the spans that are hidden, rounded to whole spans.
        stride: Steps from the start of a window to that of the next; ``None`` for ``span``.
        channels: As in :func:`forecasting`.
        normalize: As in :func:`forecasting`.
        instance_norm: As in :func:`forecasting`; of the steps that are seen.
        missing: As in :func:`forecasting`; with ``"keep"`` a gap is never scored.
        seed: Seed of the spans.

    Returns:
        Inputs float32 ``(N, context)`` with NaN where hidden; targets ``"values" (N, context)`` with
        NaN where nothing is to be filled in, ``"shift" (N,)`` and ``"scale" (N,)``.

    Raises:
        ValueError: if spans and context do not fit, or a part is shorter than a window.

    Example:
        >>> import numpy as np
        >>> series = Series("wave", np.sin(np.arange(200.0))[:, None], ("x",), (140, 160, 200), "", "")
        >>> data = imputation(series, context=16, span=4)
        >>> np.isnan(data.inputs[:3]).sum(axis=1)
        array([4, 4, 4])

    Reference:
        Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models" (ICML 2024).
    """
    check_count("span", span)
    check_number("fraction", fraction, above=0.0, below=1.0)
    check_count("context", context)
    if context % span:
        raise ValueError(f"span: expected a divisor of context = {context}, got {span}")
    num_spans = context // span
    if num_spans < 2:
        raise ValueError(f"span: expected at most half of context = {context}, got {span}")
    num_hidden = round(fraction * num_spans)
    if not 0 < num_hidden < num_spans:
        raise ValueError(
            f"fraction: expected 1 to {num_spans - 1} hidden of {num_spans} spans, got {fraction:g}, "
            f"which hides {num_hidden}"
        )
    stride = span if stride is None else stride
    cut = cut_windows(
        series,
        context=context,
        stride=stride,
        channels=channels,
        normalize=normalize,
        missing=missing,
    )
    order = np.random.default_rng(seed).random((len(cut.rows), num_spans)).argsort(axis=1)
    hidden = np.repeat(order < num_hidden, span, axis=1)
    whole = Windows(cut.values, cut.rows, context)[:]
    usable = ~np.isnan(whole)
    seen, scored = np.any(usable & ~hidden, axis=1), np.any(usable & hidden, axis=1)
    cut, keep = _keep(cut, np.logical_and(seen, scored))
    note = f"{num_hidden} of {num_spans} spans of {span} steps hidden, seed {seed}"
    inputs = Windows(cut.values, cut.rows, context, hidden[keep])
    values = np.where(hidden, whole, np.float32(np.nan))[keep]
    return _dataset(series, cut, inputs, values, instance_norm, (note,))


def windows(
    series: Series,
    *,
    context: int = 512,
    split: str = "train",
    stride: int = 1,
    channels: Channels = "all",
    normalize: Literal["train", "none"] = "train",
    missing: Missing = "error",
) -> Windows:
    """Windows of one split without targets, for training that needs no labels.

    Args:
        series: The series.
        context: Steps of a window.
        split: ``"train"``, ``"validation"`` or ``"test"``, in which windows lie as a whole.
        stride: Steps from the start of a window to that of the next.
        channels: As in :func:`forecasting`.
        normalize: As in :func:`forecasting`.
        missing: As in :func:`forecasting`.

    Returns:
        The windows, read when indexed.

    Raises:
        ValueError: if the split is shorter than a window, or the series has gaps that are not allowed.

    Example:
        >>> import numpy as np
        >>> series = Series("ramp", np.arange(100.0)[:, None], ("x",), (70, 80, 100), "", "")
        >>> windows(series, context=8, normalize="none")[-1:]
        array([[62., 63., 64., 65., 66., 67., 68., 69.]], dtype=float32)
    """
    check_choice("split", split, SPLITS)
    cut = cut_windows(
        series,
        context=context,
        stride=stride,
        channels=channels,
        normalize=normalize,
        missing=missing,
        splits=(split,),
    )
    return Windows(cut.values, cut.rows, context)


def _keep(cut: Cut, keep: np.ndarray) -> tuple[Cut, np.ndarray]:
    """Leave out windows of which gaps hide all that would be seen or scored."""
    if keep.all():
        return cut, keep
    position = np.cumsum(keep) - 1
    splits = {name: position[indices[keep[indices]]] for name, indices in cut.splits.items()}
    note = f"{int((~keep).sum())} windows left out in which gaps leave nothing to see or to score"
    return Cut(cut.values, cut.rows[keep], splits, (*cut.notes, note)), keep


def _dataset(series: Series, cut: Cut, inputs: Windows, values, instance_norm: bool, notes) -> Dataset:
    shift, scale = np.zeros(len(inputs), np.float32), np.ones(len(inputs), np.float32)
    if instance_norm:
        for begin in range(0, len(inputs), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            seen = inputs[part].astype(np.float64)
            observed = ~np.isnan(seen)
            shift[part] = np.mean(seen, axis=1, where=observed)
            scale[part] = np.std(seen, axis=1, where=observed) + _EPS
    norm = "mean and deviation of what is seen" if instance_norm else "0 and 1"
    return Dataset(
        name=series.name,
        inputs=inputs,
        targets={"values": values, "shift": shift, "scale": scale},
        splits=cut.splits,
        source=series.source,
        licence=series.licence,
        notes=(*series.notes, *cut.notes, *notes, f"shift and scale: {norm}"),
    )
