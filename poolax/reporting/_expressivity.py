"""How far noise and changed sentences move pooled vectors, from records."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting._numbers import number_text
from poolax.reporting._separation import ALL, Variants, by_model, resampled
from poolax.reporting._table import Cell, Table

_NOISE_NOTE = (
    "columns of shares: mean distance of the pooled vectors for Gaussian noise of that share of the "
    "inputs' mean norm, mean over inputs and seeds; by length: the last of these by the mean length of "
    "the vectors; slope: the first of these by the norm of the noise; measured: the largest singular "
    "value of the Jacobian, and local: its bound, medians over inputs; tight: the bound on "
    "the smallest domain that holds the inputs' embeddings. Noise of all directions moves less than "
    "that of the worst one, which measured is of."
)
_SENTENCE_NOTE = (
    "AUC: share of pairs of a group in which the variant that keeps the meaning has the greater cosine "
    "with the sentence, mean over groups and seeds with the 95 % interval of the bootstrap over "
    "groups; columns of kinds: pairs with a variant of that kind. Cosine gap: mean cosine of similar "
    "variants less that of the others. Further: how much further the others move than similar ones, by "
    "the mean of both. Less avg: the AUC less that of the average, on the same groups."
)


def expressivity_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """How far noise moves pooled vectors, and how well these tell changed meanings apart.

    Args:
        records: Records of kinds ``"noise_curve"`` with a model and data, ``"noise_constants"`` and
            ``"sentence_distances"``.

    Returns:
        A table of noise for each model and data set, and one of sentences for each model.

    Raises:
        ValueError: if there is no record of noise or sentences.
    """
    records = list(records)
    tables = [_noise_table(key, *own) for key, own in noise_of(records).items()]
    tables += [_sentence_table(key, own) for key, own in by_model(records).items()]
    if not tables:
        raise ValueError("records: expected some of noise or of sentences, got none")
    return tables


def noise_of(
    records: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, str], tuple[dict[str, list[Mapping]], dict[str, Mapping]]]:
    """Of each model and data set the curves by pooler, one for each seed, and the constants."""
    found: dict[tuple[str, str], tuple[dict[str, list[Mapping]], dict[str, Mapping]]] = {}
    for row in records:
        if row.get("kind") == "noise_curve" and "model" in row:
            curves, _ = found.setdefault((row["model"], row["dataset"]), ({}, {}))
            curves.setdefault(row["pooler"], []).append(row)
        elif row.get("kind") == "noise_constants":
            _, constants = found.setdefault((row["model"], row["dataset"]), ({}, {}))
            constants[row["pooler"]] = row
    return {key: own for key, own in found.items() if own[0]}


def curve_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The curve of a pooler over its seeds: mean, and the band of the intervals of all of them."""
    arrays = {
        name: np.array([row[name] for row in rows]) for name in ("epsilon", "mean", "low", "high")
    }
    reduced = {"epsilon": np.mean, "mean": np.mean, "low": np.min, "high": np.max}
    return {name: reduced[name](values, axis=0) for name, values in arrays.items()}


def slope_of(curve: Mapping[str, np.ndarray]) -> float:
    """Distance by size of the least noise."""
    first = int(np.argmax(curve["epsilon"] > 0))
    return float(curve["mean"][first] / curve["epsilon"][first])


def medians_of(row: Mapping[str, Any] | None) -> dict[str, float | None]:
    """What stands beside a slope: the measured constant and the logarithms of its bounds."""
    if row is None:
        return dict.fromkeys(("measured", "log10_local", "log10_tight"))
    local = row["log10_local"]
    return {
        "measured": float(np.median(row["measured"])) if row["measured"] else None,
        "log10_local": None if local is None else float(np.median(local)),
        "log10_tight": row["log10_tight"],
    }


def _noise_table(key, curves, constants) -> Table:
    relative = next(iter(curves.values()))[0]["relative"]
    shares = [index for index, share in enumerate(relative) if share > 0]
    rows, tidy = [], []
    for pooler, own in curves.items():
        curve, length = curve_of(own), float(np.mean([row["length"] for row in own]))
        slope, known = slope_of(curve), medians_of(constants.get(pooler))
        by_length = float(curve["mean"][-1]) / length if length else None
        cells = [number_text(float(curve["mean"][index])) for index in shares]
        local = known["log10_local"]
        rest = [by_length, slope, known["measured"], None if local is None else 10.0**local]
        cells += [number_text(value) for value in rest]
        cells.append(number_text(None, known["log10_tight"]))
        rows.append([Cell(text) for text in [pooler, *cells]])
        about = {"model": key[0], "dataset": key[1], "pooler": pooler, "num_seeds": len(own)}
        for index in shares:
            values = {name: float(curve[name][index]) for name in ("epsilon", "mean", "low", "high")}
            tidy.append(about | {"relative": relative[index], **values, "slope": slope, **known})
    columns = [f"{100 * relative[index]:g} %" for index in shares]
    return Table(
        title=f"Noise: {key[0]}, {key[1]}",
        columns=["pooler", *columns, "by length", "slope", "measured", "local", "tight"],
        rows=rows,
        notes=[_NOISE_NOTE],
        tidy=tidy,
    )


def _sentence_table(key, variants: Mapping[str, Sequence[Variants]]) -> Table:
    first = next(iter(variants.values()))[0]
    kinds = [ALL, *first.kinds_by_role()]
    areas = {kind: _resampled(variants, lambda one, kind=kind: one.auc(kind)) for kind in kinds}
    gaps, further = (_resampled(variants, score) for score in (Variants.gap, Variants.further))
    rows, tidy = [], []
    for pooler in variants:
        about = {"model": key[0], "dataset": key[1], "pooler": pooler}
        area = areas[ALL].interval(pooler)
        less = None
        if "avg" in variants and pooler != "avg":
            less = areas[ALL].difference(pooler, "avg")
        gap, more = gaps.interval(pooler), further.interval(pooler)
        texts = [
            f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]",
            "–" if less is None else f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]",
            *(f"{areas[kind].observed[pooler]:.3f}" for kind in kinds[1:]),
            f"{gap.value:.3f} [{gap.low:.3f}, {gap.high:.3f}]",
            f"{more.value:+.2f} [{more.low:+.2f}, {more.high:+.2f}]",
        ]
        rows.append([Cell(text) for text in [pooler, *texts]])
        measured = {f"auc of {kind}": found.interval(pooler) for kind, found in areas.items()}
        measured |= {"cosine gap": gap, "further": more}
        measured |= {} if less is None else {"auc less avg": less}
        for name, value in measured.items():
            ends = {"value": value.value, "low": value.low, "high": value.high}
            tidy.append(about | {"statistic": name, **ends, "num_groups": value.num_examples})
    return Table(
        title=f"Sentences: {key[0]}, {key[1]}",
        columns=["pooler", "AUC", "difference to avg", *kinds[1:], "cosine gap", "further"],
        rows=rows,
        notes=[_SENTENCE_NOTE],
        tidy=tidy,
    )


def _resampled(variants, score):
    return resampled({name: [score(one) for one in own] for name, own in variants.items()})
