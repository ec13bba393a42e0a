import csv
import io

import pytest
import rich.console
from matplotlib.figure import Figure
from PIL import Image

from poolax import reporting
from poolax.reporting._figures import _plot_panel


def head(pooler, seed, test, *, validation=None, rate=1e-3, resolved=None, diverged=False):
    return {
        "kind": "head",
        "backbone": "ViT",
        "dataset": "digits",
        "task": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "pooler": pooler,
        "resolved": {"name": resolved or pooler, "options": {}},
        "learning_rate": rate,
        "seed": seed,
        "validation": test if validation is None else validation,
        "test": test,
        "baseline": 0.1,
        "diverged": diverged,
    }


ROWS = [
    head("last", 0, 0.5, resolved="first"),
    head("last", 1, 0.7, resolved="first"),
    head("max", 0, 0.65),
    head("max", 1, 0.65),
    head("attn", 0, 0.9, validation=0.2),
    head("attn", 1, 0.9, validation=0.2),
    head("attn", 0, 0.8, validation=0.3, rate=1e-2),
    head("attn", 1, 0.7, validation=0.3, rate=1e-2),
]


def test_summary():
    last, largest, attn = reporting.summarize_scores(ROWS)
    assert last["mean"] == pytest.approx(0.6)
    assert last["std"] == pytest.approx(0.1 * 2**0.5)
    assert largest["std"] == 0
    # By validation, although the other rate is better on test.
    assert attn["learning_rate"] == 1e-2
    assert attn["mean"] == pytest.approx(0.75)


def test_markdown_and_csv():
    table = reporting.score_table(ROWS)
    text = table.markdown()
    assert (
        "| ViT, digits, classification (accuracy in %) | 10.00 | 60.00 ± 14.14 | <u>65.00 ± 0.00</u> "
        "| **75.00 ± 7.07** |" in text
    )
    assert "last is the first token here." in text
    assert "chosen by mean validation score" in text
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["pooler"] for row in rows] == ["last", "max", "attn"]
    assert float(rows[2]["mean"]) == pytest.approx(0.75)


def test_latex():
    rows = [{**row, "dataset": "50 % & more_data"} for row in ROWS]
    text = reporting.score_table(rows, title="On x_1 ^ ~").latex()
    row = r"ViT, 50 \% \& more\_data, classification (accuracy in \%) & 10.00 & 60.00 $\pm$ 14.14 & "
    assert row + r"\underline{65.00 $\pm$ 0.00} & \textbf{75.00 $\pm$ 7.07} \\" in text
    assert r"\caption{On x\_1 \textasciicircum{} \textasciitilde{}. Test scores" in text
    assert text.count("&") - text.count(r"\&") == 2 * 4
    assert r"\begin{tabular}{lrrrr}" in text


def test_the_best_of_all_may_be_fixed_and_lower_may_be_better():
    rows = [{**row, "higher_is_better": False, "metric": "mse"} for row in ROWS]
    text = reporting.score_table(rows).markdown()
    assert "**<u>0.6000 ± 0.1414</u>**" in text


def test_diverged_heads_are_counted_and_left_out():
    rows = [
        *ROWS,
        head("max", 2, float("nan"), diverged=True),
        head("sum", 0, float("nan"), diverged=True),
    ]
    table = reporting.score_table(rows)
    assert "65.00 ± 0.00" in table.markdown()
    assert "| diverged |" in table.markdown()
    assert "2 diverged heads are left out." in table.notes


def test_terminal():
    table = reporting.score_table(ROWS).transposed()
    assert table.columns == ["task", "ViT, digits, classification (accuracy in %)"]
    cells = {row[0].text: row[1].rich() for row in table.rows}
    assert str(cells["attn"].style) == "bold"
    assert str(cells["max"].style) == "underline"
    assert str(cells["last"].style) == ""
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(table.rich())
    text = console.export_text()
    assert "75.00 ± 7.07" in text
    assert "underlined: best fixed pooler" in " ".join(text.split())


LIPSCHITZ = [
    {
        "kind": "lipschitz",
        "attention": kind,
        "pooler": pooler,
        "measured_real": 2.0,
        "measured_adversarial": 4.0,
        "sharp": 40.0 if pooler == "avg" else None,
        "published": 4.2e6 if pooler == "avg" else None,
        "num_tokens": 16,
        "width": 64,
        "radius": 1.5,
        "num_inputs": 64,
        "metric": "accuracy",
        "test": 0.9,
    }
    for kind in ("dot product", "L2")
    for pooler in ("avg", "attn")
]


def test_sensitivity():
    table = reporting.sensitivity_table(LIPSCHITZ)
    text = table.markdown()
    assert "| dot product | avg | 2 | 4 | 40 | 4.2e+06 | 10 |" in text
    assert "| L2 | attn | 2 | 4 | – | – | – |" in text
    assert len(list(csv.DictReader(io.StringIO(table.csv())))) == 4


def test_figures(tmp_path):
    curves = [
        {
            "pooler": name,
            "epsilon": [0.0, 1.0, 2.0],
            "mean": [0, k, 2 * k],
            "low": [0, k, k],
            "high": [0, 2 * k, 3 * k],
        }
        for k, name in enumerate(("avg", "sum"), 1)
    ]
    reporting.plot_scores(ROWS, tmp_path / "scores.png")
    reporting.plot_noise_curves(curves, tmp_path / "curves.png")
    reporting.plot_sensitivity(LIPSCHITZ, tmp_path / "sensitivity.png")
    for name in ("scores", "curves", "sensitivity"):
        image = Image.open(tmp_path / f"{name}.png")
        assert image.width > 600
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=10**6)}
        assert len(colours) > 10


@pytest.mark.parametrize(
    ("baseline", "higher_is_better", "scale"),
    [(0.5, False, "linear"), (8.0, False, "log"), (0.001, True, "linear")],
)
def test_errors_far_from_the_baseline_stay_apart(baseline, higher_is_better, scale):
    axes = Figure().subplots()
    shared = {"baseline": baseline, "higher_is_better": higher_is_better}
    rows = [head("avg", 0, 0.1) | shared, head("sum", 0, 0.2) | shared]
    _plot_panel(axes, reporting.summarize_scores(rows))
    assert axes.get_yscale() == scale


def test_no_record():
    for table in (reporting.score_table, reporting.sensitivity_table):
        with pytest.raises(ValueError, match=r"records: expected at least one"):
            table([])
