"""One table for each task: what validation chose, how sure it is, and what to beware of."""

import pytest
from heads import toy
from helpers import head_row

from poolax import reporting, training
from poolax.records import Records

CONVERGED = {"name": "converged", "options": {"patience": 2}}


def head(pooler, seed, right, *, validation=0.5, rate=1e-3, **fields):
    """A head on ten test examples, of which it gets these right."""
    found = {
        "learning_rate": rate,
        "epochs": 10,
        "validation": validation,
        "test_scores": [float(mark == "x") for mark in right],
        "best_constant": 0.2,
    }
    return head_row(pooler, seed, right.count("x") / 10, **(found | fields))


def solved(pooler, right, **fields):
    found = {"strength": 0.1, "at_edge": False, "converged": True, "chosen_by": "validation"}
    return head(pooler, 0, right, rate=None, epochs=100, solver=CONVERGED, **(found | fields))


ADAM = [
    head("avg", 0, "xxxxxx....", validation=0.7),
    head("avg", 1, "xxxxxxx...", validation=0.8),
    head("max", 0, "xxxxxxxxx.", validation=0.6),
    head("max", 1, "xxxxxxxxx.", validation=0.6),
]
SOLVED = [
    solved("avg", "xxxxxxxx..", validation=0.8),
    solved("max", "xxxxxxx...", validation=0.9),
]


def cells(table, pooler):
    [row] = [row for row in table.rows if row[0].text == pooler]
    return [cell.text for cell in row[1:]]


def marks(table):
    """Which poolers have a bold and which an underlined test score."""
    place = table.columns.index("test")
    found = [(row[0].text, row[place]) for row in table.rows]
    return [[name for name, cell in found if getattr(cell, m)] for m in ("bold", "underlined")]


def test_what_validation_chose_is_bold_though_another_is_best_on_test():
    [table] = reporting.score_tables(ADAM)
    assert table.title == "ViT, digits, classification (accuracy in %)"
    assert table.columns == ["pooler", "validation", "test", "difference"]
    assert marks(table) == [["avg"], ["max"]]
    assert cells(table, "avg") == ["75.00", "65.00 ± 7.07", "chosen"]
    assert cells(table, "max")[:2] == ["60.00", "90.00 ± 0.00"]
    assert "| max | 60.00 | <u>90.00 ± 0.00</u> |" in table.markdown()
    told = " ".join(table.notes)
    assert "bold: what validation chose; underlined: best on test" in told
    assert "paired bootstrap over 10 test examples and seeds" in told


def test_lower_errors_are_chosen_and_best():
    rows = [row | {"higher_is_better": False, "metric": "mse"} for row in ADAM]
    [table] = reporting.score_tables(rows)
    assert marks(table) == [["max"], ["avg"]]
    assert cells(table, "max")[1] == "0.9000 ± 0.0000"


def test_differences_are_those_of_the_same_examples():
    """All that one gets right the other does too: in no draw of examples it is behind."""
    rows = [row | {"validation": 1.0 - row["test"]} for row in ADAM]
    avg, largest = reporting.summarize_scores(rows)
    assert avg["chosen"]
    assert largest["difference"] == pytest.approx(0.25)
    assert largest["num_examples"] == 10
    # Examples of which only max is right are two or three of ten.
    assert 0 <= largest["difference_low"] < 0.25 < largest["difference_high"] <= 0.7
    assert avg["difference"] is avg["difference_low"] is None
    assert avg["test_low"] < avg["mean"] < avg["test_high"]
    one, other = cells(reporting.score_tables(rows)[0], "max")[2].strip("[]").split(", ")
    assert (one, other) == (
        f"{100 * largest['difference_low']:+.2f}",
        f"{100 * largest['difference_high']:+.2f}",
    )


def test_solvers_stand_side_by_side_with_constants_as_rows():
    [table] = reporting.score_tables([*ADAM, *SOLVED])
    headings = ("validation", "test", "difference")
    assert table.columns == ["pooler", *(f"{n}, {h}" for n in ("Adam", "converged") for h in headings)]
    assert cells(table, "max")[3:] == ["90.00", "70.00", "chosen"]
    assert cells(table, "avg")[4] == "80.00"
    assert cells(table, "baseline") == ["", "10.00", "", "", "10.00", ""]
    assert cells(table, "best constant") == ["", "20.00", "", "", "20.00", ""]
    assert [row["protocol"] for row in table.tidy] == ["Adam"] * 2 + ["converged"] * 2
    overview = reporting.score_table([*ADAM, *SOLVED])
    assert [row[0].text.partition(", ")[0] for row in overview.rows] == [
        "ViT (solver adam)",
        "ViT (solver converged)",
    ]


def test_a_pooler_that_one_solver_lacks_leaves_its_cells_empty():
    [table] = reporting.score_tables([*ADAM, SOLVED[0]])
    assert cells(table, "max")[3:] == ["–", "–", "–"]
    assert "A dash: no such heads were trained." in table.notes
    assert "A dash" not in " ".join(reporting.score_tables([*ADAM, *SOLVED])[0].notes)


def test_several_options_of_one_solver_have_columns_of_their_own():
    other = [row | {"solver": {"name": "converged", "options": {"patience": 9}}} for row in SOLVED]
    [table] = reporting.score_tables([*SOLVED, *other])
    assert len(set(table.columns)) == 7
    assert any("patience': 9" in column for column in table.columns)
    [table] = reporting.score_tables([*ADAM, *(row | {"epochs": 20} for row in ADAM)])
    assert table.columns[1] == "Adam (epochs 10), validation"


def test_other_data_are_another_table():
    other = [row | {"data_fingerprint": "ab"} for row in SOLVED]
    tables = reporting.score_tables([*ADAM, *other])
    assert [table.title.partition(", ")[0] for table in tables] == ["ViT (data None)", "ViT (data ab)"]


def test_five_seeds_of_a_convex_head_are_one_remark():
    """The sweep trains one head for all five seeds, and the table says why it has no deviation."""
    states, mask, targets, splits = toy(400)
    task, options = training.Classification(3), {"splits": splits, "poolers": ["avg"], "seeds": 5}
    records = training.sweep_states(states, mask, targets, task, solver="converged", **options)
    assert len(records) == 1
    [table] = reporting.score_tables(records)
    told = [note for note in table.notes if "seeds change nothing" in note]
    assert told == [
        "Solved: avg. The problem is convex, so that seeds change nothing and no deviation over them "
        "stands here; how sure these scores are, the bootstrap over test examples says."
    ]
    assert "±" not in cells(table, "avg")[1]
    assert "standard deviation" not in " ".join(table.notes)


def test_a_problem_that_is_not_convex_makes_no_such_remark():
    [table] = reporting.score_tables([row | {"convex": False} for row in SOLVED])
    assert "seeds change nothing" not in " ".join(table.notes)


def warnings(rows):
    [table] = reporting.score_tables(rows)
    return [note for note in table.notes if note.startswith("Warning")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"at_edge": True}, "max: the penalty 0.1 lies at the edge of those that were tried."),
        ({"converged": False}, "max: still improved when training ended."),
        ({"is_constant": True}, "max: predicts the same for all test examples."),
        ({"diverged": True}, "max: diverged."),
    ],
)
def test_warnings_are_one_line_each(fields, expected):
    assert not warnings(SOLVED)
    assert warnings([SOLVED[0], SOLVED[1] | fields]) == [f"Warning: {expected}"]


def test_poolers_of_the_same_warning_share_its_line():
    few = [row | {"chosen_by": "cross-validation"} for row in SOLVED]
    [line] = warnings(few)
    assert line.startswith("Warning: avg, max: fewer than 50 validation examples: cross-validation")
    copied = [row | {"duplicates": {"test in train": 3}} for row in SOLVED]
    [line] = warnings(copied)
    assert line == "Warning: 3 test examples stand in the training split as well."


def test_poolers_that_validate_alike_are_told():
    [table] = reporting.score_tables([SOLVED[0], SOLVED[1] | {"validation": 0.8}])
    assert "Tied: avg, max by validation, of which avg is the first." in table.notes
    assert marks(table)[0] == ["avg"]


def test_warnings_say_of_which_solver_and_how_many_heads():
    rows = [*ADAM, *(row | {"learning_rate": 1e-2, "validation": 0.9} for row in ADAM)]
    rows += [row | {"learning_rate": 1e-4, "validation": 0.1} for row in ADAM]
    rows[5] |= {"diverged": True}
    edge = "the learning rate 0.01 lies at the edge of those that were tried"
    assert warnings([*rows, SOLVED[0] | {"converged": False}]) == [
        "Warning (Adam): avg: diverged (1 of 2 heads).",
        f"Warning (Adam): avg, max: {edge}.",
        "Warning (converged): avg: still improved when training ended.",
    ]


def test_baselines_that_records_name_are_rows_with_both_scores():
    named = {"majority class": {"accuracy": 0.3}, "prior": {"accuracy": 0.25, "auroc": 0.5}}
    fields = {"baselines": {"validation": named, "test": named}}
    [table] = reporting.score_tables([row | fields for row in SOLVED])
    assert cells(table, "majority class") == ["30.00", "30.00", ""]
    assert cells(table, "prior") == ["25.00", "25.00", ""]
    assert cells(table, "best constant") == ["", "20.00", ""]
    assert table.notes[-1].startswith("Below the poolers: predictions made of the training split")


def test_a_linear_head_on_raw_inputs_is_a_row_where_records_hold_it():
    raw = {"raw": {"accuracy": 0.6}}
    [table] = reporting.score_tables(
        [row | {"baselines": {"validation": raw, "test": raw}} for row in ADAM]
    )
    assert [row[0].text for row in table.rows][-3:] == ["baseline", "raw", "best constant"]
    assert cells(table, "raw")[:2] == ["60.00", "60.00"]
    assert "raw: a linear head on pixels, steps or weights of words" in table.notes[-1]
    [table] = reporting.score_tables(ADAM)
    assert "raw" not in [row[0].text for row in table.rows]


def test_a_choice_within_the_grid_is_no_warning():
    rates = (1e-4, 1e-3, 1e-2)
    rows = [
        row | {"learning_rate": r, "validation": v}
        for r, v in zip(rates, (0.1, 0.9, 0.2), strict=True)
        for row in ADAM
    ]
    assert not warnings(rows)


def test_records_without_examples_have_no_intervals_and_say_so():
    old = [{k: v for k, v in row.items() if k not in ("test_scores", "best_constant")} for row in ADAM]
    [table] = reporting.score_tables(old)
    assert table.columns == ["pooler", "validation", "test"]
    assert [row[0].text for row in table.rows] == ["avg", "max", "baseline"]
    assert "No intervals: the records hold no scores of single examples." in table.notes
    # Nor have those whose score is another number than the mean of what they hold.
    [table] = reporting.score_tables([row | {"metric": "other"} | {"test": 0.3} for row in ADAM])
    assert "No intervals: metric: expected one" in " ".join(table.notes)


def test_the_stored_records_of_before_still_render(pytestconfig):
    folder = pytestconfig.rootpath / "experiments" / "results"
    records = [
        row for row in Records.read(folder / "vision.jsonl") if row["backbone"].startswith("ViT of")
    ]
    records = [row for row in records if "solver" not in row]
    tables = reporting.score_tables(records)
    assert len(tables) == 3
    for table in tables:
        assert len(marks(table)[0]) == 1


def test_notes_that_tables_share_stand_below_the_last():
    rows = [row | {"dataset": name} for name in ("a", "b") for row in ADAM]
    rows[0] |= {"diverged": True}
    first, last = reporting.notes_once(reporting.score_tables(rows))
    assert first.notes == ["Warning: avg: diverged (1 of 2 heads)."]
    assert "baseline: the training split's" in last.notes[-1]


@pytest.mark.parametrize(("columns", "lines"), [(120, 1), (80, 2), (60, 1)])
def test_terminals_that_are_narrow_break_cells_and_then_the_table(monkeypatch, columns, lines):
    monkeypatch.setenv("COLUMNS", str(columns))
    [table] = reporting.score_tables([*ADAM, *SOLVED])
    shown = str(table).splitlines()
    assert max(map(len, shown)) <= columns
    first_cells = [line.strip("│ ").split(" ")[0] for line in shown]
    assert first_cells.count("max") == (2 if columns == 60 else 1)
    # A cell of two lines has nothing before its second one.
    after = shown[first_cells.index("max") + 1]
    assert (first_cells[shown.index(after)] == "baseline") == (lines == 1)


def test_wide_tables_break_between_columns_and_never_within_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    columns = [f"measurement{number:02d}" for number in range(12)]
    cell = reporting.Cell("12345.678901")
    rows = [[reporting.Cell(f"a rather long case {row}"), *[cell] * 12] for row in range(9)]
    shown = str(reporting.Table("Wide", ["case", *columns], rows, ["A note."], []))
    assert max(map(len, shown.splitlines())) <= 80
    assert all(shown.count(column) == 1 for column in columns)
    assert shown.count(cell.text) == 9 * 12
    assert shown.count("Wide") == 1
    # Few rows stand beside each other instead.
    turned = str(reporting.Table("Wide", ["case", *columns], rows[:2], [], []))
    assert turned.splitlines()[4].count("12345.678901") == 2
    # A word that no terminal is wide enough for is broken, not cut.
    long = reporting.Table("", ["a", "b"], [[reporting.Cell("x"), reporting.Cell("y" * 99)]], [], [])
    assert str(long).count("y") == 99


def test_nothing_to_show():
    with pytest.raises(ValueError, match="records: expected at least one head record, got none"):
        reporting.score_tables([])


def test_scores_of_nearest_neighbours_stand_behind_those_of_heads():
    with_votes = [row | {"knn": {"validation": 0.55, "test": 0.45}} for row in (*ADAM[:2], SOLVED[0])]
    [table] = reporting.score_tables([*with_votes, *ADAM[2:], SOLVED[1]])
    assert list(table.columns[-2:]) == ["k-NN, validation", "k-NN, test"]
    assert cells(table, "avg")[-2:] == ["55.00", "45.00"]
    assert cells(table, "max")[-2:] == ["–", "–"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert any(note.startswith("k-NN: ") for note in table.notes)
    [without] = reporting.score_tables([*ADAM, *SOLVED])
    assert not any("k-NN" in text for text in (*without.columns, *without.notes))
