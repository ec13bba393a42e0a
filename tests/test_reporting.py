import csv
import dataclasses
import html.parser
import io
import re

import pytest
import rich.console
from helpers import head_row, text_of
from PIL import Image

from poolax import reporting
from poolax.cli import show
from poolax.reporting._radar import _panels


def head(pooler, seed, test, *, validation=None, rate=1e-3, resolved=None, diverged=False):
    return head_row(
        pooler,
        seed,
        test,
        resolved={"name": resolved or pooler, "options": {}},
        learning_rate=rate,
        validation=test if validation is None else validation,
        diverged=diverged,
    )


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
        "| ViT, digits, classification (accuracy in %) | 10.00 | 60.00 ± 14.14 | **65.00 ± 0.00** "
        "| <u>75.00 ± 7.07</u> |" in text
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
    assert row + r"\textbf{65.00 $\pm$ 0.00} & \underline{75.00 $\pm$ 7.07} \\" in text
    assert r"\caption{On x\_1 \textasciicircum{} \textasciitilde{}. test: mean" in text
    assert text.count("&") - text.count(r"\&") == 2 * 4
    assert r"\begin{tabular}{lrrrr}" in text


def test_lower_may_be_better():
    rows = [{**row, "higher_is_better": False, "metric": "mse"} for row in ROWS]
    _, _, attn = reporting.summarize_scores(rows)
    assert attn["chosen"]
    assert attn["learning_rate"] == 1e-3
    text = reporting.score_table(rows).markdown()
    assert "**0.9000 ± 0.0000**" in text
    assert "<u>0.6000 ± 0.1414</u>" in text


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
    assert str(cells["max"].style) == "bold"
    assert str(cells["attn"].style) == "underline"
    assert str(cells["last"].style) == ""
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(table.rich())
    text = console.export_text()
    assert "75.00 ± 7.07" in text
    assert "underlined: best on test" in " ".join(text.split())


# What some reader of some format takes for a command.
HOSTILE = "a|b&c_d%e<f>g`h\ni*j[red]k[/red]$l\\m~n#o\x1b[31mp\x07q"
SHOWN = r"a|b&c_d%e<f>g`h i*j[red]k[/red]$l\m~n#o\x1b[31mp\x07q"


@pytest.fixture
def hostile():
    rows = [{**row, "dataset": HOSTILE, "backbone": ""} for row in ROWS]
    table = reporting.score_table([*rows, head(HOSTILE, 0, 0.1)], title=HOSTILE)
    return dataclasses.replace(table, notes=[*table.notes, HOSTILE])


class Readers(html.parser.HTMLParser):
    """The text of each element of HTML, and every tag in it."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_html_shows_text_as_it_is(hostile):
    read = Readers(hostile._repr_html_())
    assert read.texts.count(SHOWN) == 3  # title, column, note
    assert f"{SHOWN}, classification" in read.texts
    assert read.tags == {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "b", "u", "p"}
    bold = re.findall(r"<b>(.*?)</b>", hostile.html())
    # One pooler alone is chosen and the best.
    assert bold == ["65.00 ± 0.00", "<u>10.00</u>"]
    assert re.findall(r"<u>(.*?)</u>", hostile.html()) == ["75.00 ± 7.07", "10.00"]


def unescaped(text):
    """What CommonMark shows of text with backslashes before punctuation."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def test_markdown_shows_text_as_it_is(hostile):
    lines = hostile.markdown().splitlines()
    assert unescaped(lines[0]) == f"## {SHOWN}"
    assert unescaped(lines[-1]) == SHOWN
    heading, row = lines[2], lines[4]
    cells = re.split(r" (?<!\\)\| ", heading.removeprefix("| ").removesuffix(" |"))
    assert [unescaped(cell) for cell in cells][-1] == SHOWN
    assert unescaped(row).startswith(f"| {SHOWN}, classification")
    # Nothing that begins an emphasis, a code span, a link, a tag, an entity or a column is left bare.
    assert not re.search(
        r"(?<!\\)[`*_<\[&$~]", re.sub(r"\*\*|</?u>", "", lines[0] + heading + lines[-1])
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "".join(lines))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("- x", r"\- x"), ("1. x", r"1\. x"), ("===", r"\==="), ("-0.5", "-0.5"), ("0.9", "0.9")],
)
def test_markdown_begins_no_block(text, expected):
    table = reporting.Table("t", ["c"], [], notes=[text], tidy=[])
    assert table.markdown().splitlines()[-1] == expected


def test_terminals_get_no_commands_of_data(hostile, capsys):
    console = rich.console.Console(width=400, file=io.StringIO(), force_terminal=True)
    console.print(hostile)
    written = console.file.getvalue()
    assert "\x07" not in written
    assert "\x1b[31mp" not in written
    assert SHOWN in written
    show([hostile], [], as_json=False)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert "[red]k[/red]" in printed


def test_latex_of_several_lines_and_control_characters(hostile):
    text = hostile.latex()
    assert "\x1b" not in text
    assert r"a\textbar{}b\&c\_d\%e$<$f$>$g`h i*j" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[CLS]", "{}[CLS]"),
        (" [1cm]", "{}"),
        ("*", "{}*"),
        ("a [b]", "a [b]"),
        ('a|"b"', r"a\textbar{}''b''"),
    ],
)
def test_latex_rows_begin_no_argument(text, expected):
    rows = [[reporting.Cell("a"), reporting.Cell("b")], [reporting.Cell(text), reporting.Cell("c")]]
    lines = reporting.Table("t", [text, "[b]"], rows, notes=[], tidy=[]).latex().splitlines()
    heading, row = lines[lines.index(r"\midrule") - 1], lines[lines.index(r"\bottomrule") - 1]
    assert heading.startswith(expected)
    assert heading.endswith(r" & [b] \\")
    assert row.startswith(expected)
    assert not re.search(r"\\\\\s*[\[*]|rule\s*\[", "\n".join(lines))


def test_csv_holds_no_formula():
    names = ["=1+1", "+x", "-x", "@x", " =x", "\t=x", "-0.5", "x=1"]
    table = reporting.Table("t", ["c"], [], [], tidy=[{"name": name, "mean": -0.5} for name in names])
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["name"] for row in rows] == [*(f"'{name}" for name in names[:6]), "-0.5", "x=1"]
    assert {row["mean"] for row in rows} == {"-0.5"}


def test_csv_of_rows_that_differ_and_of_none():
    table = reporting.Table("t", ["c"], [], [], tidy=[{"a": 1}, {"a": 2, "b": 3}])
    assert table.csv() == "a,b\n1,\n2,3\n"
    with pytest.raises(ValueError, match="tidy: expected at least one row"):
        dataclasses.replace(table, tidy=[]).csv()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_print_themselves(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = str(reporting.score_table(ROWS))
    assert max(map(len, text.splitlines())) <= columns
    for part in ("_75.00 ± 7.07_", "*65.00 ± 0.00*", "60.00 ± 14.14", "*bold*, _underlined_"):
        assert part in text
    assert "Table(" not in text
    assert "\x1b" not in text


def of_models(*models, **fields):
    return [
        head("avg", seed, score) | {"backbone_fingerprint": weights, **fields}
        for weights, score in models
        for seed in range(2)
    ]


def test_other_weights_are_another_row():
    rows = of_models(("1234567890abcdef", 0.7), ("fedcba0987654321", 0.5))
    table = reporting.score_table(rows)
    assert table.columns[0] == "task (accuracy in %)"
    assert [[cell.text for cell in row[::2]] for row in table.rows] == [
        ["ViT (weights 12345678), digits, classification", "70.00 ± 0.00"],
        ["ViT (weights fedcba09), digits, classification", "50.00 ± 0.00"],
    ]
    # Names tell them apart in place of digits.
    named = [row | {"model": row["backbone_fingerprint"][0] + "-model"} for row in rows]
    names = [row[0].text.split(",")[0] for row in reporting.score_table(named).rows]
    assert names == ["1-model", "f-model"]


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("data_fingerprint", ("aa", "bb"), "data aa"),
        ("states_fingerprint", ("aa", "bb"), "states aa"),
        ("epochs", (1, 2), "epochs 1"),
        ("batch_size", (1, 2), "batch_size 1"),
        ("task_options", ({"k": 1}, {"k": 2}), "task_options {'k': 1}"),
        ("include_prefix", (True, False), "include_prefix True"),
    ],
)
def test_other_data_or_settings_are_another_row(name, values, shown):
    rows = [row | {name: value} for value in values for row in of_models(("1234", 0.7))]
    first, second = reporting.summarize_scores(rows)
    assert first["num_seeds"] == second["num_seeds"] == 2
    assert first["variant"] == shown
    assert len(reporting.score_table(rows).rows) == 2


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("preprocess", ("resize to 32", "resize to 64")),
        ("features", ("states of the first", "states of the last")),
        ("batch_size", (1, "1")),
        ("data_fingerprint", ("0123456789ab", "0123456789cd")),
    ],
)
def test_alike_words_are_several_rows_and_panels(tmp_path, name, values):
    rows = [
        row | {name: value}
        for value, score in zip(values, (0.7, 0.5), strict=True)
        for row in of_models(("1234", score))
    ]
    table = reporting.score_table(rows)
    assert [row[2].text for row in table.rows] == ["70.00 ± 0.00", "50.00 ± 0.00"]
    for row, value in zip(table.rows, values, strict=True):
        assert f"{value})" in row[0].text
    sizes = []
    for records in (rows, rows[:2]):
        reporting.plot_scores(records, tmp_path / "scores.png")
        with Image.open(tmp_path / "scores.png") as image:
            sizes.append(image.height)
    assert sizes[0] > 1.5 * sizes[1]


def test_places_whose_words_run_together_are_several_rows():
    rows = of_models(("1234", 0.7), model="a, b", dataset="")
    rows += of_models(("1234", 0.5), model="a", dataset="b")
    table = reporting.score_table(rows)
    assert [row[2].text for row in table.rows] == ["70.00 ± 0.00", "50.00 ± 0.00"]


def test_heads_that_make_no_mean_are_refused():
    rows = of_models(("1234", 0.7))
    with pytest.raises(
        ValueError, match=r"records: expected each head once, got 'avg' .* seed 0 twice"
    ):
        reporting.summarize_scores([*rows, rows[0]])
    other = {"resolved": {"name": "max", "options": {}}, "seed": 5}
    with pytest.raises(ValueError, match=r"records: expected one pooler called 'avg', got .*'max'"):
        reporting.summarize_scores([*rows, rows[0] | other])


def test_both_constants_and_copied_examples(tmp_path):
    rows = [row | {"best_constant": 0.6, "duplicates": {"test in train": 3}} for row in ROWS]
    table = reporting.score_table(rows)
    assert table.columns[:3] == ["task", "baseline", "best constant"]
    assert [cell.text for cell in table.rows[0][1:3]] == ["10.00", "60.00"]
    notes = " ".join(table.notes)
    assert (
        "baseline: the training split's best constant prediction; best constant: that of the" in notes
    )
    assert "ViT, digits, classification: 3 test examples stand in the training split as well." in notes
    reporting.plot_scores(rows, tmp_path / "scores.svg")
    words = " ".join(text_of(tmp_path / "scores.svg"))
    assert "← baseline 10.00" in words  # far below the poolers, and the other among them
    assert re.search("(?<!← )best constant 60.00", words)
    older = reporting.score_table([*rows, head("avg", 0, 0.5) | {"dataset": "older"}])
    assert [row[2].text for row in older.rows] == ["60.00", "–"]


def test_figures_show_dollars_as_they_are(tmp_path):
    rows = [row | {"dataset": "a $\\frac$ b", "pooler": "$x$", "metric": "$_$"} for row in ROWS[:1]]
    reporting.plot_scores(rows, tmp_path / "scores.png")
    curve = {"epsilon": [1.0, 2.0], "mean": [1, 2], "low": [1, 1], "high": [2, 3]}
    names = ("_x", r"$\frac$")
    reporting.plot_noise_curves([curve | {"pooler": name} for name in names], tmp_path / "curves.png")
    odd = [row | {"attention": r"$\frac$", "pooler": "$_$"} for row in LIPSCHITZ]
    reporting.plot_sensitivity(odd, tmp_path / "sensitivity.png")
    for name in ("scores", "curves", "sensitivity"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


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
    assert "| dot product | avg | 2.00 | 4.00 | 40.0 | 4.20e6 | 10.0 |" in text
    assert "| L2 | attn | 2.00 | 4.00 | – | – | – |" in text
    assert len(list(csv.DictReader(io.StringIO(table.csv())))) == 4
    with pytest.raises(ValueError, match=r"records: expected kind 'lipschitz' or .*, got 'bounds'"):
        reporting.sensitivity_table([LIPSCHITZ[0] | {"kind": "bounds"}])


def test_local_and_tight_bounds_have_columns_where_records_have_them():
    newer = [row | {"local": 3.0, "tight": 20.0} for row in LIPSCHITZ]
    table = reporting.sensitivity_table(newer)
    assert table.columns[2:] == ["real", "search", "local", "tight", "sharp", "published", "ratio"]
    assert (
        "| dot product | avg | 2.00 | 4.00 | 3.00 | 20.0 | 40.0 | 4.20e6 | 5.00 |" in table.markdown()
    )
    assert table.tidy[0]["tight_over_measured"] == 5
    assert table.tidy[0]["sharp_over_measured"] == 10
    # Beside records of the first version, which lack both.
    mixed = reporting.sensitivity_table([*newer, LIPSCHITZ[0]]).markdown()
    assert "| dot product | avg | 2.00 | 4.00 | – | – | 40.0 | 4.20e6 | – |" in mixed


def test_a_radar_has_an_axis_for_each_task(tmp_path):
    tasks = {"a": ("accuracy", True), "b": ("mse", False), "c": ("spearman", True)}
    rows = [
        head(pooler, 0, test) | {"dataset": name, "metric": metric, "higher_is_better": higher}
        for name, (metric, higher) in tasks.items()
        for pooler, test in (("avg", 0.7), ("max", 0.5))
    ]
    reporting.plot_radar(rows, tmp_path / "radar.png")
    with Image.open(tmp_path / "radar.png") as image:
        assert image.width == 1088
    [(title, axes, lines)] = _panels(rows)
    assert title == "ViT, Adam"
    assert [axis.label for axis in axes] == list(tasks)
    assert axes[0].unit == "accuracy (%)"
    # Outward is better: the smaller error, too.
    for axis, better, worse in zip(axes, lines["avg"], lines["max"], strict=True):
        assert (better > worse) == (axis.outer > axis.inner)
        assert 0.25 <= min(better, worse) <= max(better, worse) <= 1
    with pytest.raises(ValueError, match="records: expected heads of one model on 3 tasks or more"):
        reporting.plot_radar(rows[:2], tmp_path / "radar.png")


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


def test_no_record():
    for table in (reporting.score_table, reporting.sensitivity_table):
        with pytest.raises(ValueError, match=r"records: expected at least one"):
            table([])
