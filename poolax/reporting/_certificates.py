"""Certified and attacked radii: a table of shares of examples, and a figure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from poolax.reporting._canvas import PathOrPaths, new_figure, save_figure, styled
from poolax.reporting._looks import looks_of
from poolax.reporting._numbers import number_text
from poolax.reporting._table import Cell, Table

_CHANGES = {
    "frobenius": "the norm of the change of all tokens together",
    "tokens": "the largest norm of a token's change",
}
_INPUTS = {"states": "token states", "embeddings": "embeddings, through the whole backbone"}


def certificate_table(record: Mapping[str, Any], epsilons: Sequence[float] | None = None) -> Table:
    """Share of examples whose class cannot change, and whose class no attack changed, by radius.

    Args:
        record: A record of kind ``"certificate"``: ``radius`` and ``attacked``, a number an example;
            ``None`` for one that is infinite, and for no attacks.
        epsilons: Radii of the rows; ``None`` for five that the examples lie around.

    Returns:
        The table.

    Example:
        >>> record = {
        ...     "pooler": "avg", "geometry": "frobenius", "of": "states", "model": "a model",
        ...     "radius": [0.0, 0.5, 1.0], "attacked": [0.0, 0.6, 1.1],
        ... }
        >>> [row[1].text for row in certificate_table(record, [0.25, 0.75]).rows]
        ['66.7%', '33.3%']
    """
    radius, attacked = (_radii(record, name) for name in ("radius", "attacked"))
    rows = [
        [
            Cell(number_text(epsilon)),
            Cell(_share(radius > epsilon)),
            Cell("–" if record["attacked"] is None else _share(attacked > epsilon)),
        ]
        for epsilon in (default_epsilons(radius, attacked) if epsilons is None else epsilons)
    ]
    right = radius > 0
    certified = number_text(float(np.median(radius[right]))) if right.any() else "–"
    notes = [
        f"{len(radius)} examples, {int(right.sum())} of them classified as labelled. ε: "
        f"{_CHANGES[record['geometry']]}, of {_INPUTS[record['of']]}. certified: no change up to ε "
        "alters the class. not attacked: no change up to ε that was found does; the truth lies between "
        f"the two. Median radius of those that are right: {certified} certified"
    ]
    if record["attacked"] is not None and right.any():
        median = float(np.median(attacked[right]))
        notes[0] += f", {number_text(median) if np.isfinite(median) else 'none found'} attacked"
    notes[0] += "."
    return Table(
        title=f"Certificates of {record['pooler']} on {record['model']}",
        columns=["ε", "certified", "not attacked"],
        rows=rows,
        notes=notes,
        tidy=[],
    )


def _radii(record, name):
    """Radii of a record; infinite where it has none."""
    values = record[name]
    if values is None:
        return np.full(len(record["radius"]), np.inf)
    return np.asarray([np.inf if value is None else value for value in values], float)


def _share(which):
    return f"{100 * np.mean(which):.1f}%"


def default_epsilons(radius: np.ndarray, attacked: np.ndarray) -> list[float]:
    """Five radii, rounded to a digit, from below what is certified to beyond what attacks need."""
    ends = [side[np.isfinite(side) & (side > 0)] for side in (radius, attacked)]
    known = np.concatenate(ends)
    if not known.size:
        return [1.0]
    values = np.geomspace(np.quantile(known, 0.05), np.quantile(known, 0.95), 5)
    return sorted({float(f"{value:.1g}") for value in values})


@styled
def plot_certificates(records: Iterable[Mapping[str, Any]], path: PathOrPaths) -> None:
    """Share of examples against the radius: certified, solid, and not attacked, dashed.

    Args:
        records: Records of kind ``"certificate"``, of one geometry, a colour for each pooler.
        path: PNG, PDF or SVG to write, or several.

    Raises:
        ValueError: for no records, or records of several geometries.
    """
    rows = list(records)
    geometries = {row["geometry"] for row in rows}
    if len(geometries) != 1:
        found = ", ".join(sorted(geometries)) or "no records"
        raise ValueError(f"records: expected certificates of one geometry, got {found}")
    figure, [axes] = new_figure(5.2, 3.6)
    looks = looks_of(row["pooler"] for row in rows)
    for row in rows:
        look = looks[row["pooler"]]
        for name, style, label in (("radius", "-", "certified"), ("attacked", "--", "not attacked")):
            values = np.sort(_radii(row, name))
            known = values[np.isfinite(values) & (values > 0)]
            # Right below its own radius an example still counts.
            above = [np.mean(values >= value) for value in known]
            axes.step(
                known, above, where="pre", color=look.colour, linestyle=style,
                label=f"{row['pooler']}, {label}",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set(xlabel=f"ε, {_CHANGES[geometries.pop()]}", ylabel="share of examples")
    axes.legend()
    save_figure(figure, path)
