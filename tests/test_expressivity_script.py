"""The script on noise and changed sentences, its groups, and what is told of known vectors."""

import importlib
import json

import numpy as np
import pytest

from poolax import reporting
from poolax.records import Records, packed

HEADER = "group,role,kind,text"
GOOD = (
    "a,base,,The cat sleeps.",
    "a,similar,synonym,The cat is asleep.",
    "a,dissimilar,negation,The cat does not sleep.",
)


@pytest.fixture(scope="module")
def experiments(pytestconfig):
    """Imports modules of the experiments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module


def test_the_built_in_groups_are_complete(experiments):
    module = experiments("sentence_groups")
    groups = module.read(module.BUILT_IN)
    assert len(groups) >= 40
    assert len({group.name for group in groups}) == len(groups)
    texts = [text for group in groups for text in (group.base, *(one.text for one in group.variants))]
    assert len(set(texts)) == len(texts)
    kinds = {}
    for group in groups:
        roles = [one.similar for one in group.variants]
        assert min(roles.count(True), roles.count(False)) >= 3
        for one in group.variants:
            kinds.setdefault(one.kind, set()).add(group.name)
    assert min(map(len, kinds.values())) >= 15
    assert {"negation", "swapped", "number", "word", "unrelated", "synonym"} <= set(kinds)
    # Nothing but numbers and order differ where that is what was changed.
    for group in groups:
        for one in group.variants:
            if one.kind == "swapped":
                assert abs(len(one.text.split()) - len(group.base.split())) <= 2


def test_files_of_ones_own_are_read(experiments, tmp_path):
    read = experiments("sentence_groups").read
    csv, tsv, jsonl = (tmp_path / f"own.{suffix}" for suffix in ("csv", "tsv", "jsonl"))
    csv.write_text("\n".join([HEADER, *GOOD, "", 'b,base,,"Yes, ""now""."', *_others("b")]))
    tsv.write_text(csv.read_text().replace('"Yes, ""now""."', '"Yes; ""now""."').replace(",", "\t"))
    rows = [dict(zip(HEADER.split(","), line.split(",", 3), strict=True)) for line in GOOD]
    jsonl.write_text("\n".join(map(json.dumps, rows)) + "\n")
    first, second = read(csv)
    assert (first.name, first.base) == ("a", "The cat sleeps.")
    assert [(one.kind, one.similar) for one in first.variants] == [
        ("synonym", True),
        ("negation", False),
    ]
    assert second.base == 'Yes, "now".'
    assert read(tsv)[0] == first
    assert read(jsonl) == [first]
    plain = tmp_path / "plain.csv"
    plain.write_text("role,group,text\nbase,a,x\nsimilar,a,y\ndissimilar,a,z\n")
    assert [one.kind for one in read(plain)[0].variants] == ["similar", "dissimilar"]


def _others(group):
    return [line.replace("a,", f"{group},", 1) for line in GOOD[1:]]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (
            "a.csv",
            [HEADER, *GOOD, "a,base,,Again."],
            "line 5: expected one base of a group, got a second",
        ),
        (
            "a.csv",
            [HEADER, "a,near,,x"],
            "line 2: expected a role of base, similar, dissimilar, got 'near'",
        ),
        ("a.csv", [HEADER, "a,base,"], "line 2: expected 4 cells, got 3"),
        (
            "a.csv",
            [HEADER, GOOD[0], "a,similar,synonym, "],
            "line 3: expected a text of 'text', got ' '",
        ),
        ("a.csv", ["group,text", "a,b"], "line 1: expected a column 'role', got group, text"),
        ("a.csv", [HEADER, *GOOD[1:]], "line 2: expected a base of group 'a', got none"),
        ("a.csv", [HEADER, *GOOD[:2]], "line 2: expected something dissimilar in group 'a', got none"),
        ("a.csv", [HEADER], "expected at least one group, got none"),
        ("a.csv", [HEADER, 'a,base,,"open'], "line 2: expected cells, got unexpected end of data"),
        ("a.jsonl", ['{"group": "a",'], "line 1: expected JSON, got"),
        ("a.jsonl", ["", "[1]"], "line 2: expected an object, got list"),
        ("a.jsonl", ['{"group": "a", "role": "base"}'], "line 1: expected a text of 'text', got none"),
        ("a.txt", ["x"], "expected a file of .csv, .tsv or .jsonl"),
        ("none.csv", None, "sentences: expected a file, got"),
        (
            "a.csv",
            [HEADER, *GOOD, "b,base,,x", "b,similar,negation,y", "b,dissimilar,synonym,z"],
            "line 5: expected kind 'negation' in one role, got both by 'b'",
        ),
    ],
)
def test_broken_files_are_refused_in_one_line(experiments, tmp_path, capsys, name, lines, message):
    path = tmp_path / name
    if lines is not None:
        path.write_text("\n".join(lines))
    script = experiments("expressivity").SCRIPT
    arguments = ["--sentences", str(path), "--out", str(tmp_path / "out")]
    assert experiments("probing").main(script, arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_bytes_that_are_no_text_are_refused_with_their_line(experiments, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(f"{HEADER}\n".encode() + b"a,base,,\xff\n")
    with pytest.raises(ValueError, match="line 2: expected text in UTF-8"):
        experiments("sentence_groups").read(path)


def curve(pooler, seed, factor):
    epsilon = [0.1, 1.0]
    row = {"kind": "noise_curve", "id": f"{pooler}{seed}", "pooler": pooler, "head": "h", "seed": seed}
    row |= {"model": "net", "dataset": "digits", "epsilon": epsilon, "relative": [0.01, 0.1]}
    values = [factor * (1 + 0.1 * seed) * size for size in epsilon]
    row |= {"mean": values, "low": [0.9 * value for value in values]}
    return row | {"high": [1.1 * value for value in values], "num_inputs": 4, "length": 2.0 * factor}


def test_noise_is_told_beside_constants(tmp_path):
    rows = [curve(name, seed, factor) for name, factor in (("avg", 1), ("sum", 8)) for seed in range(2)]
    known = {"kind": "noise_constants", "id": "c", "model": "net", "dataset": "digits", "pooler": "avg"}
    rows.append(
        known
        | {"measured": [3.0, 5.0], "log10_local": [1.0, 1.0], "log10_tight": 6.25, "num_inputs": 2}
    )
    [table] = reporting.expressivity_tables(rows)
    assert table.title == "Noise: net, digits"
    assert table.columns == [
        "pooler",
        "1 %",
        "10 %",
        "by length",
        "slope",
        "measured",
        "local",
        "tight",
    ]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["avg", "0.105", "1.05", "0.525", "1.05", "4.00", "10.0", "1.78e6"],
        ["sum", "0.840", "8.40", "0.525", "8.40", "–", "–", "–"],
    ]
    first = table.tidy[0]
    # The band holds the intervals of both seeds.
    assert (first["low"], first["high"]) == pytest.approx((0.09, 0.121))
    reporting.plot_noise(rows, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected some of noise, got none"):
        reporting.plot_noise([], tmp_path / "none.png")
    with pytest.raises(ValueError, match="records: expected some of noise or of sentences, got none"):
        reporting.expressivity_tables([])


def test_sentences_are_told_apart_as_their_vectors_are(experiments, tmp_path):
    script, module = experiments("expressivity"), experiments("sentence_groups")
    variants = [("synonym", True), ("order", True), ("negation", False), ("unrelated", False)]
    # A kind that one group alone has.
    groups = [
        module.Group(str(index), "b", tuple(module.Variant(kind, kind, near) for kind, near in own))
        for index, own in enumerate([variants[:3], *[variants] * 5])
    ]
    kinds = [kind for kind, _ in variants]
    angles = {"b": 0.0, "synonym": 0.1, "order": 0.5, "negation": 0.3, "unrelated": 1.2}
    texts = [text for group in groups for text in ("b", *(one.text for one in group.variants))]
    good = np.array([[np.cos(angles[text]), np.sin(angles[text])] for text in texts])
    rows = []
    for pooler, vectors in (("avg", good), ("sum", 5 * good), ("max", np.ones_like(good))):
        found = script.distances(vectors, groups, kinds)
        row = {"kind": "sentence_distances", "id": pooler, "model": "net", "dataset": "own", "seed": 0}
        row |= {"pooler": pooler, "head": "h", "kinds": kinds, "num_groups": len(groups)}
        rows.append(row | {"variants": packed(found)})
    [table] = reporting.expressivity_tables(Records(rows))
    assert table.columns[3:] == ["synonym", "order", "negation", "unrelated", "cosine gap", "further"]
    by_pooler = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    # Of the pairs of a group three of four, and one of two where there is no unrelated one.
    area = (0.5 + 5 * 0.75) / 6
    assert by_pooler["avg"][0].startswith(f"{area:.3f} [")
    assert by_pooler["avg"][2:6] == ["1.000", f"{(5 * 0.5) / 6:.3f}", "0.500", "1.000"]
    assert by_pooler["sum"][1] == "+0.000 [+0.000, +0.000]"
    assert by_pooler["sum"][2:] == by_pooler["avg"][2:]
    assert by_pooler["max"][0] == "0.500 [0.500, 0.500]"
    [gap] = [
        row["value"] for row in table.tidy if (row["pooler"], row["statistic"]) == ("avg", "cosine gap")
    ]
    near, far = (np.cos(0.1) + np.cos(0.5)) / 2, (np.cos(0.3) + np.cos(1.2)) / 2
    assert gap == pytest.approx((near - np.cos(0.3) + 5 * (near - far)) / 6, abs=1e-6)
    [told] = [
        row for row in table.tidy if (row["pooler"], row["statistic"]) == ("avg", "auc of unrelated")
    ]
    assert told["num_groups"] == 5
    reporting.plot_sentences(rows[:2], tmp_path / "sentences.png")
    assert (tmp_path / "sentences.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="records: expected some of sentences, got none"):
        reporting.plot_sentences([], tmp_path / "none.png")


@pytest.mark.slow
def test_the_script_runs_on_small_backbones(experiments, bert, tmp_path, capsys):
    probing, script = experiments("probing"), experiments("expressivity").SCRIPT
    arguments = ["--backbone", str(bert), "/nowhere/else", "--datasets", "topics", "digits"]
    arguments += ["--out", str(tmp_path), "--poolers", "avg", "sum", "max", "wavg", "--limit", "40"]
    arguments += ["--seeds", "1", "--epochs", "1", "--pretrain-epochs", "2", "--num-inputs", "3"]
    arguments += ["--num-perturbations", "2", "--num-bounded", "1", "--noise", "0.01", "1.0"]
    assert probing.main(script, arguments) == 0
    assert "else left out: path_or_hub_id: expected" in capsys.readouterr().err
    records = Records.read(tmp_path / "expressivity.jsonl")
    kinds = {(row["kind"], row["dataset"]) for row in records}
    assert kinds == {
        ("noise_curve", "topics"), ("noise_curve", "digits"), ("noise_constants", "topics"),
        ("noise_constants", "digits"), ("sentence_distances", "sentences"),
    }  # fmt: skip
    for row in records.where(kind="noise_constants"):
        assert max(row["measured"]) <= 10 ** max(row["log10_local"]) * 1.001
        assert max(row["log10_local"]) <= row["log10_tight"] + 1e-3
    by_pooler = {row["pooler"]: row for row in records.where(kind="noise_curve", dataset="digits")}
    # All tokens of an image are real: a sum is the average of 17 tokens times their number.
    ratio = np.divide(by_pooler["sum"]["mean"], by_pooler["avg"]["mean"])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert len(list(tmp_path.glob("*.png"))) == 2
    before = (tmp_path / "measured" / "journal.jsonl").read_bytes()
    assert probing.main(script, [*arguments, "--json"]) == 0
    assert (tmp_path / "measured" / "journal.jsonl").read_bytes() == before
