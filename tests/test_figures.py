"""Figures: one style, looks that stay, files of three kinds, and axes that a failure does not set."""

import itertools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from helpers import head_row, text_of
from PIL import Image

from poolax import pooling, reporting
from poolax.reporting._looks import COLOURS, POOLERS, looks_of
from poolax.reporting._ranges import range_of

CURVES = [
    {
        "kind": "noise_curve",
        "pooler": name,
        "epsilon": [0.0, 0.5, 1.0],
        "mean": [0.0, size, 2 * size],
        "low": [0.0, 0.9 * size, 1.9 * size],
        "high": [0.0, 1.1 * size, 2.1 * size],
        "length": 4 * size,
    }
    for name, size in (("avg", 1.0), ("sum", 16.0))
]
# Of light through cones that are missing: rows of protanopes and deuteranopes (Viénot et al., 1999).
_BLIND = (
    [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
)


def test_every_pooler_has_a_look_of_its_own():
    names = [*pooling.FIXED_POOLERS, "wavg", "attn", "map", "hybrid"]
    assert set(names) <= POOLERS.keys()
    marks = [(look.colour, look.marker) for look in POOLERS.values()]
    assert len(set(marks)) == len(marks)
    looks = looks_of(["cls", "first", *POOLERS, *(f"own {number}" for number in range(40))])
    assert looks["cls"] == POOLERS["first"]
    drawn = [(look.colour, look.marker) for look in looks.values()]
    assert len(set(drawn)) == len(drawn)
    assert looks_of(["own 3"])["own 3"] == looks_of(["avg", "own 3", "sum"])["own 3"]


def _lab(linear):
    """Colours in a space where distances are as they are seen."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.clip(linear, 0, 1) @ np.transpose(to_xyz) / [0.9505, 1, 1.089]).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def test_colours_stay_apart_for_the_colour_blind():
    values = [[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in COLOURS]
    linear = np.array(values) ** 2.2
    for seen in (linear, *(linear @ np.transpose(matrix) for matrix in _BLIND)):
        pairs = itertools.combinations(_lab(seen), 2)
        assert min(np.linalg.norm(one - other) for one, other in pairs) > 15


def test_figures_in_three_kinds_leave_settings_alone(tmp_path):
    before = dict(mpl.rcParams)
    endings = ("png", "pdf", "svg", "SVG")
    reporting.plot_noise_curves(CURVES, [tmp_path / f"curves.{ending}" for ending in endings])
    assert dict(mpl.rcParams) == before
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF-")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    with pytest.raises(
        ValueError, match=r"path: expected a file that ends in .png, .pdf, .svg, got .*"
    ):
        reporting.plot_noise_curves(CURVES, tmp_path / "curves.jpg")
    with mpl.rc_context({"font.size": 40, "svg.fonttype": "path", "axes.facecolor": "red"}):
        reporting.plot_noise_curves(CURVES, tmp_path / "other.svg")
    assert (tmp_path / "other.svg").read_text() == (tmp_path / "curves.svg").read_text()


def test_a_figure_is_drawn_once_for_all_its_files(tmp_path):
    drawn = []
    reporting.write_figure(lambda *given: drawn.append(given), CURVES, tmp_path, "curves")
    ((records, paths),) = drawn
    assert records is CURVES
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "curves.png",
        "curves.pdf",
        "curves.svg",
    ]
    with pytest.raises(
        ValueError, match=r"path: expected a file that ends in .png, .pdf, .svg, got .*"
    ):
        reporting.plot_noise_curves(CURVES, [tmp_path / "first.png", tmp_path / "second.jpg"])
    assert not list(tmp_path.iterdir())


def test_svg_suits_pages_light_and_dark(tmp_path):
    reporting.plot_noise_curves([row | {"pooler": '<b>&"x'} for row in CURVES[:1]], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert '<b>&"x' in text_of(tmp_path / "a.svg")
    assert "currentColor" in text
    assert "prefers-color-scheme: dark" in text
    # Nothing that hides the page below.
    assert not re.search(r"fill: (#ffffff|white)", text)
    assert 'href="http' not in text


def test_noise_is_shown_by_the_length_of_vectors_too(tmp_path):
    reporting.plot_noise_curves(CURVES, tmp_path / "both.svg")
    assert "mean distance by mean length" in text_of(tmp_path / "both.svg")
    older = [{name: row[name] for name in row if name != "length"} for row in CURVES]
    reporting.plot_noise_curves(older, tmp_path / "older.svg")
    assert "mean distance by mean length" not in text_of(tmp_path / "older.svg")


def test_one_that_fails_does_not_set_the_scale(tmp_path):
    errors = {"last": 0.1, "avg": 0.11, "max": 0.12, "wavg": 0.115, "sum": 5.0}
    rows = [
        head_row(name, seed, error * (1 + 0.01 * seed), metric="mse", higher_is_better=False)
        for name, error in errors.items()
        for seed in range(3)
    ]
    reporting.plot_scores(rows, tmp_path / "scores.svg")
    words = text_of(tmp_path / "scores.svg")
    assert "5.0500" in words  # beside its arrow at the edge
    assert "← baseline 0.1000" not in words
    assert "test mean squared error; 3 seeds" in words
    assert not [word for word in words if re.fullmatch(r"[1-9]\.?0*", word)]  # ticks


@pytest.mark.parametrize(
    ("values", "higher_is_better", "outside", "is_log"),
    [
        ([0.9, 0.91, 0.92, 0.93, 0.1], True, [0.1], False),
        ([0.9, 0.91, 0.92, 0.1, 0.93, 0.12], True, [0.1, 0.12], False),
        # The best one is never left out, and of three none.
        ([0.1, 0.11, 0.12, 0.9], True, [], False),
        ([0.1, 0.9, 0.91], True, [], False),
        # What lies in between keeps the axis whole, on a logarithmic one where errors are far apart.
        ([0.1, 0.2, 0.5, 1.0, 2.0, 4.0], False, [], True),
        ([0.5, 0.5], True, [], False),
    ],
)
def test_what_an_axis_shows(values, higher_is_better, outside, is_log):
    found = range_of([(v, v, v) for v in values], higher_is_better=higher_is_better)
    assert [value for value in values if value not in found] == outside
    assert found.is_log == is_log
    assert found.low < found.high


def test_what_training_for_certificates_does_is_told_and_drawn(tmp_path):
    fields = ("validation_accuracy", "accuracy", "share_certified")
    numbers = ("measured_real", "measured_adversarial", "median_radius")
    ways = {"plain": (0.0, None, 0.0), "penalised": (0.02, None, 0.0), "margin": (0.0, 2.0, 1.0)}
    rows = [
        {"kind": "regularize", "pooler": "avg", "attention": "l2", "way": way}
        | {"strength": strength, "cap": cap, "margin": margin, "sharp": [bound, 1.1 * bound]}
        | {name: [share, share] for name in fields}
        | {name: [2.0, 2.0] for name in numbers}
        | {"certified": [[0.0, 0.4], [0.6, 0.7]], "attacked": [[0.0, 0.6], [None, 0.9]]}
        for (way, (strength, cap, margin)), bound, share in zip(
            ways.items(), (3e3, 90.0, 9.0), (0.5, 0.75, 0.8), strict=True
        )
    ]
    table = reporting.regularized_table([{"kind": "other"}, *rows])
    losses = ["plain loss", "+ 0.02 log L", "cap 2, margin 1"]
    assert [[cell.text for cell in row[:2]] for row in table.rows] == [["L2", loss] for loss in losses]
    found = dict(zip(table.columns, (cell.text for cell in table.rows[1]), strict=True))
    assert found["test accuracy (%)"] == "75.0 ± 0.0"
    assert found["sharp bound"].startswith("94.5 ± 6.36")
    # Of both seeds' images, those whose radius is above half a grey level, or has no end.
    assert found["certified (%)"] == "50.0 ± 70.7"
    assert found["not attacked (%)"] == "75.0 ± 35.4"
    assert len(table.tidy) == 6
    reporting.plot_regularized([*rows, rows[0] | {"attention": "dot"}], tmp_path / "regularize.svg")
    words = text_of(tmp_path / "regularize.svg")
    labels = {"plain loss", "+ strength · log L", "capped, with a margin"}
    assert labels | {"L2", "dot-product", "ε (grey levels)"} <= set(words)
    with pytest.raises(ValueError, match="records: expected some of kind 'regularize', got none"):
        reporting.plot_regularized([{"kind": "head"}], tmp_path / "none.svg")


def test_noise_curves_of_an_advice_that_say_nothing_are_left_out(tmp_path):
    """Of heads that read entries of states that hardly vary, in units of their spread."""
    score = {"value": 0.9, "low": 0.8, "high": 0.95}
    curve = {"epsilon": [0.0, 0.1, 1.0], "mean": [0.0, 0.2, 2.0], "low": [0.0, 0.1, 1.0]}
    curve |= {"high": [0.0, 0.3, 3.0]}
    large = {name: [1e29 * value for value in values] for name, values in curve.items()}
    record = {
        "validation": {"avg": 0.91234, "abmil": 0.9}, "test": dict.fromkeys(("avg", "abmil"), score),
        "comparisons": {}, "metric": "macro_f1", "higher_is_better": True, "best": "avg",
        "recommended": "avg", "sentence": "Take avg", "reasons": [], "curves": {"avg": curve, "abmil": large},
        "cost": {name: dict.fromkeys(("avg", "abmil"), 1.0) for name in
                 ("num_parameters", "lipschitz_factor", "heads_seconds")},
    }  # fmt: skip
    reporting.plot_advice(record, tmp_path / "advice.svg")
    words = text_of(tmp_path / "advice.svg")
    assert "distance of vectors, in units of their spread" in words
    table = reporting.advice_table(record)
    assert "the vectors of abmil is not defined" in table.notes[0]
    assert table.columns[1:4] == ("validation F1 by the mean of classes", "test", "difference to avg")
    assert [cell.text for cell in table.rows[0]][1:3] == ["0.912", "0.900 [0.800, 0.950]"]
    reporting.plot_advice(record | {"curves": {"abmil": large}}, tmp_path / "none.svg")
    assert "not defined" in " ".join(text_of(tmp_path / "none.svg"))


def test_titles_show_what_is_written_and_turn_nothing_around(tmp_path):
    row = head_row("avg", 0, 0.7, model="gpt\u202etxt.exe\x1b[31m", validation_score=[0.5, 0.7])
    row |= {
        "shots": 2,
        "task_options": {"num_classes": 10},
        "num_examples": {"train": 20, "validation": 20, "test": 20},
    }
    for name, plot in (("curves", reporting.plot_training_curves), ("sizes", reporting.plot_sizes)):
        plot([row, row | {"pooler": "max"}], tmp_path / f"{name}.svg")
        words = " ".join(text_of(tmp_path / f"{name}.svg"))
        assert r"gpt\u202etxt.exe\x1b[31m" in words
        assert "\u202e" not in words


def test_bounds_in_two_norms(tmp_path):
    rows = [
        {"kind": "bounds_geometry", "attention": "l2", "target": pooler, "geometry": geometry}
        | {"published": None, "sharp": 9.0, "tight": 4.0, "local": 3.0, "found": 2.0}
        for pooler in ("avg", "max")
        for geometry in ("frobenius", "tokens")
    ]
    reporting.plot_bounds_by_geometry(rows, tmp_path / "two.svg")
    words = set(text_of(tmp_path / "two.svg"))
    assert {"L2, all together", "L2, each token", "avg", "max", "tight bound"} <= words
    assert "published bound" not in words
    with pytest.raises(ValueError, match="records: expected bounds by geometry, got none"):
        reporting.plot_bounds_by_geometry([], tmp_path / "none.svg")


def test_bounds_against_the_number_of_tokens(tmp_path):
    bounds = [
        {"kind": "bounds", "attention": kind, "pooler": "avg", "num_tokens": [4, n]}
        | {"published": 100.0 * n if kind == "dot" else None, "sharp": 10.0 * n, "tight": 5.0}
        for kind in ("dot", "l2")
        for n in (4, 16, 64)
    ]
    reporting.plot_bounds_by_tokens(bounds, tmp_path / "n.svg")
    words = text_of(tmp_path / "n.svg")
    assert {"dot-product attention, avg", "L2 attention, avg", "64", "tokens, n"} <= set(words)
    assert "measured by search" not in words
    found = [
        {"kind": "bounds_inputs", "attention": "dot", "target": "attention", "num_tokens": n}
        | {"published": 9.0, "sharp": 5.0, "tight": 4.0, "local": 3.0, "found": 2.0}
        for n in (4, 8)
    ]
    reporting.plot_bounds_by_tokens(found, tmp_path / "found.svg")
    assert {"measured by search", "dot-product attention, attention"} <= set(
        text_of(tmp_path / "found.svg")
    )
    with pytest.raises(
        ValueError, match="records: expected bounds for several numbers of tokens, got 1"
    ):
        reporting.plot_bounds_by_tokens(bounds[:1], tmp_path / "none.svg")
