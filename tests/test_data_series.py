import hashlib
import subprocess
import sys
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from poolax.data import series as series_data
from poolax.data.series import Series, forecasting, imputation, read_series, read_ucr, windows
from poolax.data.series._series import month_borders, ratio_borders
from poolax.data.series._ucr import validation_split

ENTRIES = {entry.name: entry for entry in series_data.ENTRIES}
UCR = {
    "ecg200": (100, 100, 96, {"-1": 31, "1": 69}),
    "swedish_leaf": (500, 625, 128, None),
    "italy_power_demand": (67, 1029, 24, {"1": 34, "2": 33}),
    "small_kitchen_appliances": (375, 375, 720, {"1": 125, "2": 125, "3": 125}),
}
# Windows of 96 steps a channel in each split, as works that follow the Autoformer protocol print them.
PUBLISHED_WINDOWS = {
    "etth1": (8545, 2881, 2881),
    "etth2": (8545, 2881, 2881),
    "ettm1": (34465, 11521, 11521),
    "ettm2": (34465, 11521, 11521),
    "electricity": (18317, 2633, 5261),
    "traffic": (12185, 1757, 3509),
    "weather": (36792, 5271, 10540),
}


def toy(num_steps=120, num_channels=2, seed=0, borders=None):
    values = np.random.default_rng(seed).normal(3, 2, (num_steps, num_channels))
    names = tuple(f"c{index}" for index in range(num_channels))
    return Series("toy", values, names, borders or ratio_borders(num_steps), "made up", "none")


def with_gaps(*gaps, **options):
    series = toy(**options)
    for row, column in gaps:
        series.values[row, column] = np.nan
    return series


def naive(series, split, context, horizon, stride, channels, reach_back=True):
    """Inputs and values of a split by the most literal loop."""
    mean = np.nanmean(series.values[: series.borders[0]], axis=0)
    scale = np.nanstd(series.values[: series.borders[0]], axis=0)
    index = ("train", "validation", "test").index(split)
    begin = 0 if index == 0 else series.borders[index - 1] - context * reach_back
    for channel in channels:
        x = (series.values[:, channel] - mean[channel]) / scale[channel]
        for start in range(begin, series.borders[index] - context - horizon + 1, stride):
            yield x[start : start + context], x[start + context : start + context + horizon]


# The real samples


@pytest.mark.parametrize("name", UCR)
def test_ucr_sets(name, test_data):
    num_train, num_test, length, counts = UCR[name]
    entry = ENTRIES[name]
    data = entry.read(test_data)
    archive = entry.layout.split("/")[0]
    assert data.name == name
    assert dict(entry.sizes) == {"train": num_train, "test": num_test}
    assert data.inputs.shape == (num_train + num_test, length)
    assert (data.inputs.dtype, data.targets.dtype) == (np.float32, np.int32)
    first = (
        (test_data / "ucr" / archive / f"{archive}_TRAIN.tsv").read_text().split("\n")[0].split("\t")
    )
    np.testing.assert_array_equal(data.inputs[0], np.array(first[1:], np.float32))
    assert data.class_names[data.targets[0]] == first[0]
    assert sorted(map(int, data.class_names)) == list(map(int, data.class_names))
    assert data.num_classes == len(data.class_names) == (15 if name == "swedish_leaf" else len(counts))
    if counts:
        labels = np.bincount(data.targets[:num_train])
        assert dict(zip(data.class_names, labels.tolist(), strict=True)) == counts
    parts = [data.splits[split] for split in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(num_train + num_test))
    np.testing.assert_array_equal(parts[2], np.arange(num_train, num_train + num_test))
    assert len(parts[1]) == -(-num_train // 10)
    assert set(data.targets[parts[1]]) == set(range(data.num_classes))
    assert "stratified 10 %" in data.notes[0]


def test_etth1(test_data):
    series = read_series("etth1", test_data)
    assert series.values.shape == (17420, 7)
    assert series.names == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert series.values[0, 0] == 5.827000141143799
    assert series.values[-1, -1] == 9.56700038909912
    assert str(series.dates[0]) == "2016-07-01T00:00:00"
    assert series.borders == (8640, 11520, 14400)
    assert series.notes == ()  # hour follows hour
    mean, scale = series.statistics()
    np.testing.assert_allclose(mean, series.values[:8640].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale, series.values[:8640].std(axis=0), rtol=1e-12)
    content = (test_data / "ett" / "ETTh1.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == ENTRIES["etth1"].downloads[0].sha256


def test_windows_of_etth1_are_those_of_the_standard_protocol(test_data):
    series = read_series("etth1", test_data)
    data = ENTRIES["etth1"].read(test_data, context=96)
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [
        7 * 8449,
        7 * 2785,
        7 * 2785,
    ]
    mean, scale = series.values[:8640].mean(axis=0), series.values[:8640].std(axis=0)
    x = ((series.values - mean) / scale).astype(np.float32)
    for split, begin, end in (("train", 0, 8640), ("validation", 8544, 11520), ("test", 11424, 14400)):
        first, last = data.splits[split][[0, -1]]
        np.testing.assert_array_equal(data.inputs[first], x[begin : begin + 96, 0])
        np.testing.assert_array_equal(data.targets["values"][last], x[end - 96 : end, 6])
        np.testing.assert_array_equal(data.inputs[last], x[end - 192 : end - 96, 6])
    window = data.inputs[[5]].astype(np.float64)
    np.testing.assert_allclose(data.targets["shift"][5], window.mean(), rtol=1e-6)
    np.testing.assert_allclose(data.targets["scale"][5], window.std() + 1e-5, rtol=1e-6)
    assert any("stride 1" in note for note in data.notes)


def test_imputation_of_etth1(test_data):
    data = ENTRIES["etth1"].read(test_data, task="imputation", context=64, stride=64, channels="target")
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [135, 45, 45]
    assert (np.isnan(data.inputs[:]).sum(axis=1) == 16).all()


@pytest.mark.parametrize("name", PUBLISHED_WINDOWS)
def test_borders_give_the_published_numbers_of_windows(name):
    sizes = ENTRIES[name].sizes
    train, validation, test = (sizes[split] for split in ("train", "validation", "test"))
    assert (train - 95, validation + 1, test + 1) == PUBLISHED_WINDOWS[name]


def test_borders():
    assert month_borders(1) == (8640, 11520, 14400)
    assert month_borders(4) == (34560, 46080, 57600)
    assert ratio_borders(26304) == (18412, 21044, 26304)


# The embedded series


def test_co2_keeps_its_gaps():
    series = series_data.co2()
    assert series.values.shape == (2284, 1)
    assert np.isnan(series.values).sum() == 59
    assert series.values[0, 0] == 316.1
    assert (str(series.dates[0]), str(series.dates[-1])) == (
        "1958-03-29T00:00:00",
        "2001-12-29T00:00:00",
    )
    assert (np.diff(series.dates) == np.timedelta64(7, "D")).all()
    with pytest.raises(
        ValueError, match=r"values of 'co2', row 6, column 'co2': .* got NaN \(59 in all\)"
    ):
        forecasting(series, context=104, horizon=26)
    data = ENTRIES["co2"].embedded()
    rows = 1598 - 130 + 1
    clean = [np.isfinite(series.values[start : start + 130]).all() for start in range(rows)]
    assert len(data.splits["train"]) == sum(clean)
    assert any(f"left out: {rows - sum(clean)} train, 0 validation" in note for note in data.notes)
    assert np.isfinite(data.inputs[:]).all()
    assert np.isfinite(data.targets["values"]).all()
    kept = ENTRIES["co2"].embedded(missing="keep")
    assert len(kept.splits["train"]) == rows
    assert np.isnan(kept.inputs[:]).any()


def test_sunspots():
    series = series_data.sunspots()
    assert series.values.shape == (309, 1)
    assert (str(series.dates[0])[:4], str(series.dates[-1])[:4]) == ("1700", "2008")
    for task in ("forecasting", "imputation"):
        data = ENTRIES["sunspots"].embedded(task=task)
        assert all(len(indices) for indices in data.splits.values())


def test_without_statsmodels_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    with pytest.raises(ImportError, match=r"co2: expected statsmodels.*pip install 'poolax\[data\]'"):
        series_data.co2()


# Windows


@hypothesis.given(
    context=st.integers(1, 20),
    horizon=st.integers(1, 8),
    stride=st.integers(1, 5),
    num_channels=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_lazily_read_windows_are_the_naive_slices(context, horizon, stride, num_channels, seed):
    series = toy(num_channels=num_channels, seed=seed)
    data = forecasting(series, context=context, horizon=horizon, stride=stride)
    assert data.inputs.shape == (len(data.inputs), context)
    for split, indices in data.splits.items():
        pairs = list(naive(series, split, context, horizon, stride, range(num_channels)))
        inputs, values = (np.array(part, np.float32) for part in zip(*pairs, strict=True))
        np.testing.assert_allclose(data.inputs[indices], inputs, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(data.targets["values"][indices], values, rtol=1e-6, atol=1e-6)
        shuffled = np.random.default_rng(seed).permutation(indices)
        np.testing.assert_array_equal(data.inputs[shuffled], data.inputs[:][shuffled])


@pytest.mark.parametrize("missing", ["drop", "keep"])
@hypothesis.given(
    gaps=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 1)), min_size=1, max_size=9)
)
def test_gaps_are_left_out_or_kept_never_filled(missing, gaps):
    series = with_gaps(*gaps)
    data = forecasting(series, context=6, horizon=3, missing=missing)
    for split, indices in data.splits.items():
        pairs = [
            (x, y)
            for x, y in naive(series, split, 6, 3, 1, range(2))
            if (
                np.isfinite(x).all() and np.isfinite(y).all()
                if missing == "drop"
                else np.isfinite(x).any() and np.isfinite(y).any()
            )
        ]
        inputs, values = (np.array(part, np.float32) for part in zip(*pairs, strict=True))
        np.testing.assert_allclose(data.inputs[indices], inputs, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(data.targets["values"][indices], values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            data.targets["shift"][indices], np.nanmean(inputs, axis=1), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            data.targets["scale"][indices], np.nanstd(inputs, axis=1) + 1e-5, rtol=1e-5, atol=1e-6
        )
    assert any(f"{len(set(gaps))} missing values" in note for note in data.notes)


@hypothesis.given(
    span=st.integers(1, 4),
    num_spans=st.integers(2, 6),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_masks_hide_whole_spans_and_the_stated_fraction(span, num_spans, share, seed):
    context, num_hidden = span * num_spans, round(share * num_spans)
    hypothesis.assume(0 < num_hidden < num_spans)
    series = toy(borders=(60, 90, 120))
    data = imputation(series, context=context, span=span, fraction=share, stride=1, seed=seed)
    hidden = np.isnan(data.inputs[:])
    blocks = hidden.reshape(-1, num_spans, span)
    assert (blocks.all(axis=2) == blocks.any(axis=2)).all()
    assert (blocks[..., 0].sum(axis=1) == num_hidden).all()
    np.testing.assert_array_equal(~np.isnan(data.targets["values"]), hidden)
    for split, indices in data.splits.items():
        whole = [x for x, _ in naive(series, split, context, 0, 1, range(2), reach_back=False)]
        filled = np.where(hidden, data.targets["values"], data.inputs[:])[indices]
        np.testing.assert_allclose(filled, np.array(whole, np.float32), rtol=1e-6, atol=1e-6)
    seen = data.inputs[:].astype(np.float64)
    np.testing.assert_allclose(data.targets["shift"], np.nanmean(seen, axis=1), rtol=1e-5, atol=1e-6)
    again = imputation(series, context=context, span=span, fraction=share, stride=1, seed=seed)
    assert again.fingerprint == data.fingerprint


def test_every_span_is_hidden_as_often_as_another():
    data = imputation(toy(2000, 1), context=16, span=4, fraction=0.25, stride=1)
    share = np.isnan(data.inputs[:]).mean(axis=0)
    assert abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / len(data.inputs))
    other = imputation(toy(2000, 1), context=16, span=4, fraction=0.25, stride=1, seed=1)
    assert other.fingerprint != data.fingerprint


def test_imputation_never_scores_a_gap_and_leaves_out_what_gaps_empty():
    series = with_gaps(*((row, 0) for row in range(20, 33)), (50, 1))
    data = imputation(series, context=8, span=4, fraction=0.5, stride=1, missing="keep")
    values, inputs = data.targets["values"], data.inputs[:]
    assert not (np.isfinite(values) & np.isfinite(inputs)).any()
    assert (np.isfinite(values).any(axis=1) & np.isfinite(inputs).any(axis=1)).all()
    assert (np.isfinite(values).sum(axis=1) < 4).any()  # gaps among what is hidden
    assert any("gaps leave nothing to see or to score" in note for note in data.notes)
    assert sum(len(indices) for indices in data.splits.values()) == len(inputs)


def test_without_instance_norm_and_normalisation_values_are_as_they_are():
    series = toy(num_channels=3)
    data = forecasting(
        series, context=4, horizon=2, channels="target", normalize="none", instance_norm=False
    )
    np.testing.assert_array_equal(data.inputs[0], series.values[:4, 2].astype(np.float32))
    assert (set(data.targets["shift"]), set(data.targets["scale"])) == ({0.0}, {1.0})
    picked = forecasting(series, context=4, horizon=2, channels=[2, 0], normalize="none")
    np.testing.assert_array_equal(picked.inputs[0], data.inputs[0])


def test_no_number_after_the_training_part_reaches_the_normalisation():
    series = toy()
    changed = Series("toy", series.values.copy(), series.names, series.borders, "", "")
    changed.values[series.borders[0] :] *= 100
    one, other = (forecasting(s, context=8, horizon=2) for s in (series, changed))
    train = one.splits["train"]
    np.testing.assert_array_equal(one.inputs[train], other.inputs[train])
    assert one.fingerprint != other.fingerprint


def test_a_constant_channel_has_scale_one():
    series = toy()
    series.values[:, 1] = 4.0
    mean, scale = series.statistics()
    assert (mean[1], scale[1]) == (4.0, 1.0)
    data = forecasting(series, context=8, horizon=2, channels=[1])
    assert not data.inputs[:].any()
    np.testing.assert_allclose(data.targets["scale"], 1e-5)


def test_windows_without_labels_lie_in_their_split():
    series = toy(num_channels=1)
    for split, begin, end in (("train", 0, 84), ("validation", 84, 96), ("test", 96, 120)):
        cut = windows(series, context=5, split=split, normalize="none")
        assert cut.shape == (end - begin - 4, 5)
        np.testing.assert_array_equal(cut[-1], series.values[end - 5 : end, 0].astype(np.float32))
    cut[0][:] = 0  # a copy
    assert cut[0].all()
    assert windows(series, context=84).shape == (1, 84)  # whatever the other splits have
    gap = windows(with_gaps((10, 0), num_channels=1), context=5, missing="drop")
    assert gap.shape == (80 - 5, 5)
    assert np.isfinite(gap[:]).all()


def test_a_scalar_index_a_slice_and_an_array_read_alike():
    data = imputation(toy(), context=8, span=2, stride=1)
    whole = data.inputs[:]
    for index in (3, np.int64(3), slice(2, 9, 3), np.array([5, 1, 5]), [4, 0], whole[:, 0] > 0):
        np.testing.assert_array_equal(data.inputs[index], whole[index])
    assert data.inputs.dtype == whole.dtype == np.float32


def test_importing_brings_no_statistics_library_along():
    heavy = ("statsmodels", "pandas", "sklearn", "tensorflow_datasets")
    program = f"import sys, poolax.data.series; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Files


def write_long(folder, name="weather", rows=40, edit=None):
    lines = ["date,OT,b"]
    lines += [f"2020-01-01 {row // 6:02d}:{row % 6}0:00,{row}.5,{row * row}" for row in range(rows)]
    if edit:
        edit(lines)
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_long_layouts_and_the_target_last(tmp_path):
    nested = tmp_path / "nested"
    (nested / "weather").mkdir(parents=True)
    one = read_series("weather", write_long(tmp_path))
    write_long(nested / "weather")
    other = read_series("weather", nested)
    assert one.names == other.names == ("b", "OT")
    np.testing.assert_array_equal(one.values[2], [4.0, 2.5])
    np.testing.assert_array_equal(one.values, other.values)
    assert one.borders == (28, 32, 40)


def test_empty_cells_sentinels_and_uneven_dates(tmp_path):
    def edit(lines):
        lines[3] = "2020-01-01 00:20:00,,4"
        lines[5] = "2020-01-01 00:40:00,-9999,16"
        del lines[10]

    series = read_series("weather", write_long(tmp_path, edit=edit))
    assert np.isnan(series.values).sum() == 1
    assert series.notes == (
        "1 rows do not follow the one before by 600 seconds, first 2020-01-01T01:40:00; read as if they did",
        "1 values of -9999 left as they are; sentinel=-9999 reads them as missing",
    )
    series = read_series("weather", tmp_path, sentinel=-9999)
    assert np.isnan(series.values[[2, 4], 1]).all()
    assert "1 values of -9999 read as missing" in series.notes
    with pytest.raises(
        ValueError,
        match=r"weather.csv, line 4, column 'OT': expected a number, got NaN \(2 in all\); missing='drop'",
    ):
        ENTRIES["weather"].read(tmp_path, context=4, horizon=2, sentinel=-9999, partial=True)
    data = ENTRIES["weather"].read(
        tmp_path, context=4, horizon=2, missing="drop", sentinel=-9999, partial=True
    )
    assert np.isfinite(data.inputs[:]).all()


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "time,OT,b", r"weather.csv, line 1: expected 'date' and the names of channels, got 'time"),
        (4, "2020-01-01 00:30:00,1", r"weather.csv, line 5: expected 3 values as in line 1, got 2"),
        (4, "2020-01-01 00:30:00,1,x", r"weather.csv, line 5: expected numbers, got 'x'"),
        (4, ",1,2", r"weather.csv, line 5: expected a date such as .* got ''"),
        (4, "soon,1,2", r"weather.csv, line 5: expected a date such as .* got 'soon'"),
        (
            4,
            "2020-01-01 00:30:00,1,inf",
            r"weather.csv, line 5, column 'b': expected a finite number, got inf",
        ),
    ],
)
def test_lines_that_do_not_fit(tmp_path, line, text, message):
    folder = write_long(tmp_path, edit=lambda lines: lines.__setitem__(line, text))
    with pytest.raises(ValueError, match=message):
        read_series("weather", folder)


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(ValueError, match=r"data_dir: expected traffic.csv in .*, which has none"):
        read_series("traffic", tmp_path)
    with pytest.raises(ValueError, match=r"data_dir: expected ECG200/ECG200_TRAIN.tsv in"):
        read_ucr("ECG200", tmp_path)
    with pytest.raises(ValueError, match=r"data_dir: expected the folder of ETTh1.csv, got none"):
        read_series("etth1")
    with pytest.raises(ValueError, match=r"name: expected one of 'etth1'.*got 'etth3'"):
        read_series("etth3", tmp_path)
    (tmp_path / "traffic.csv").write_text("date,OT\n")
    with pytest.raises(ValueError, match="expected rows below the names, got none"):
        read_series("traffic", tmp_path)
    (tmp_path / "traffic.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"line 1: .* got 'an empty file'"):
        read_series("traffic", tmp_path)
    (tmp_path / "traffic.csv").write_bytes(b"date,\xff\n")
    with pytest.raises(ValueError, match="expected text in UTF-8, got byte 5 that is not"):
        read_series("traffic", tmp_path)
    (tmp_path / "ETTh1.csv").write_text("date,OT\n2016-07-01 00:00:00,1\n")
    with pytest.raises(ValueError, match=r"ETTh1.csv: expected at least 14400 rows, 20 months, got 1"):
        read_series("etth1", tmp_path)


TRAIN = [
    ("b", [1.5, 2.0, -3.0]),
    ("a", [0.0, 1.0, 2.0]),
    ("b", [5.0, 6.0, 7.5]),
    ("a", [1.0, 1.0, 1.0]),
]
TEST = [("a", [9.0, 8.0, 7.0])]


def ucr_text(suffix, examples):
    if suffix == ".ts":
        head = "# a comment\n@problemName Toy\n@timeStamps false\n@classLabel true a b\n@data\n"
        return head + "".join(f"{','.join(map(str, x))}:{label}\n" for label, x in examples)
    join = "\t" if suffix == ".tsv" else "   "
    start = "" if suffix == ".tsv" else "  "
    return "".join(start + join.join([label, *map(str, x)]) + "\n" for label, x in examples)


def write_ucr(folder, suffix=".tsv", train=TRAIN, test=TEST):
    folder.mkdir(parents=True, exist_ok=True)
    for part, examples in (("TRAIN", train), ("TEST", test)):
        (folder / f"Toy_{part}{suffix}").write_text(ucr_text(suffix, examples))
    return folder


@pytest.mark.parametrize("suffix", [".tsv", ".txt", ".ts"])
@pytest.mark.parametrize("inner", ["", "Toy", "ucr/Toy", "zip"])
def test_ucr_layouts_read_alike(tmp_path, suffix, inner):
    folder = write_ucr(tmp_path / ("outside" if inner == "zip" else inner), suffix)
    if inner == "zip":
        with zipfile.ZipFile(tmp_path / "Toy.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"Toy/{file.name}")
    data = read_ucr("Toy", tmp_path)
    np.testing.assert_array_equal(data.inputs, np.array([x for _, x in TRAIN + TEST], np.float32))
    assert data.class_names == ("a", "b")
    assert data.targets.tolist() == [1, 0, 1, 0, 0]
    assert sorted(data.targets[data.splits["validation"]]) == [0, 1]
    assert sorted(data.targets[data.splits["train"]]) == [0, 1]


def test_labels_written_as_floats_are_those_written_as_integers(tmp_path):
    train = [("1.0000000e+00", [1.0]), ("10", [2.0]), ("1", [3.0]), ("-1", [4.0]), ("10.0", [5.0])]
    data = read_ucr("Toy", write_ucr(tmp_path, ".txt", train, [("-1.0", [1.0])]))
    assert data.class_names == ("-1", "1", "10")
    assert data.targets.tolist() == [1, 2, 1, 0, 2, 0]


def test_validation_of_small_classes():
    labels = np.repeat([0, 1, 2, 3], [40, 9, 2, 1])
    validation, note = validation_split(labels)
    assert np.bincount(labels[validation], minlength=4).tolist() == [4, 1, 1, 0]
    assert "one example of each of the 2 classes with fewer than 10" in note
    assert "none of the 1 classes with a single training example" in note
    np.testing.assert_array_equal(validation, validation_split(labels)[0])
    with pytest.raises(ValueError, match="validation: expected a class with two training examples"):
        validation_split(np.arange(5))


@hypothesis.given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8), seed=st.integers(0, 9))
def test_validation_takes_from_every_class_with_two_examples_and_empties_none(counts, seed):
    hypothesis.assume(max(counts) > 1)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    validation, _ = validation_split(labels)
    taken = np.bincount(labels[validation], minlength=len(counts))
    for count, number in zip(counts, taken, strict=True):
        assert (number >= 1) == (count > 1)
        assert number < count


@pytest.mark.parametrize("suffix", [".tsv", ".ts"])
def test_missing_values_and_lengths(tmp_path, suffix):
    mark = "?" if suffix == ".ts" else "NaN"
    shorter = [*TRAIN[:3], ("a", [1.0, 1.0])]
    with_mark = [*TRAIN[:3], ("a", [1.0, mark, 1.0])]
    line = 9 if suffix == ".ts" else 4
    write_ucr(tmp_path / "short", suffix, shorter)
    write_ucr(tmp_path / "mark", suffix, with_mark)
    with pytest.raises(
        ValueError, match=f"line {line}: expected 3 values as in the first series, got 2"
    ):
        read_ucr("Toy", tmp_path / "short")
    with pytest.raises(
        ValueError, match=f"line {line}: expected numbers, got a missing one; .* missing="
    ):
        read_ucr("Toy", tmp_path / "mark")
    data = read_ucr("Toy", tmp_path / "short", missing="keep")
    np.testing.assert_array_equal(data.inputs[3], np.array([1, 1, np.nan], np.float32))
    data = read_ucr("Toy", tmp_path / "mark", missing="keep")
    np.testing.assert_array_equal(data.inputs[3], np.array([1, np.nan, 1], np.float32))
    assert any("1 missing values" in note for note in data.notes)


@pytest.mark.parametrize(
    ("suffix", "train", "test", "message"),
    [
        (".tsv", TRAIN, [("c", [1.0, 2.0, 3.0])], r"TEST.tsv, line 1: expected a label of the training split \(a, b\), got 'c'"),
        (".tsv", [*TRAIN, ("a", [1.0, "x", 2.0])], TEST, r"TRAIN.tsv, line 5: expected numbers, got: could not convert string to float: 'x'"),
        (".tsv", [*TRAIN, ("a", [1.0, "inf", 2.0])], TEST, r"TRAIN.tsv, line 5: expected finite numbers"),
        (".tsv", [*TRAIN, ("a", [1.0, 1e60, 2.0])], TEST, r"TRAIN.tsv, line 5: expected finite numbers"),
        (".tsv", [*TRAIN, ("a", [])], TEST, r"TRAIN.tsv, line 5: expected a label and a series, got no series"),
        (".tsv", [*TRAIN, ("nan", [1.0, 2.0, 3.0])], TEST, r"TRAIN.tsv, line 5: expected a label, got 'nan'"),
        (".tsv", TRAIN, [], r"TEST.tsv: expected examples, got none"),
        (".ts", [*TRAIN, ("a:b", [1.0, 2.0, 3.0])], TEST, r"TRAIN.ts, line 10: expected one series and a label behind a colon, got 3 fields"),
    ],
)  # fmt: skip
def test_ucr_lines_that_do_not_fit(tmp_path, suffix, train, test, message):
    with pytest.raises(ValueError, match=message):
        read_ucr("Toy", write_ucr(tmp_path, suffix, train, test))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("@timeStamps true", "line 1: expected @timestamps false, got '@timeStamps true'"),
        ("@univariate false", "line 1: expected @univariate true"),
        ("@classLabel false", "line 1: expected @classlabel true"),
        ("1,2,3:a", "line 1: expected a line that begins with @, got '1,2,3:a'"),
    ],
)
def test_ts_files_of_other_kinds(tmp_path, head, message):
    (tmp_path / "Toy_TRAIN.ts").write_text(f"{head}\n@data\n1,2:a\n")
    with pytest.raises(ValueError, match=message):
        read_ucr("Toy", tmp_path)


def test_series_of_nothing_and_broken_archives(tmp_path):
    write_ucr(tmp_path / "nothing", train=[*TRAIN, ("a", ["NaN", "NaN", "NaN"])])
    with pytest.raises(ValueError, match="line 5: expected a series, got nothing but missing values"):
        read_ucr("Toy", tmp_path / "nothing", missing="keep")
    (tmp_path / "Toy.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"Toy.zip: expected an archive to read, got: File is not"):
        read_ucr("Toy", tmp_path)
    with zipfile.ZipFile(tmp_path / "Toy.zip", "w") as archive:
        archive.writestr("Toy_TEST.ts", "")
    with pytest.raises(ValueError, match=r"expected one of Toy_TRAIN.tsv.*got none of them"):
        read_ucr("Toy", tmp_path)


# Arguments


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (forecasting, {"context": 90, "horizon": 9}, r"context \+ horizon: expected at most the 84 steps of the train part of 'toy', got 90 \+ 9"),
        (forecasting, {"context": 8, "horizon": 13}, r"at most the 20 steps of the validation part of 'toy' and the context before it, got 8 \+ 13"),
        (imputation, {"context": 16, "span": 4}, r"context: expected at most the 12 steps of the validation part of 'toy', got 16"),
        (windows, {"context": 100}, r"context: expected at most the 84 steps of the train part"),
        (forecasting, {"context": 0}, r"context: expected a whole number >= 1, got 0"),
        (forecasting, {"horizon": 0}, r"horizon: expected a whole number >= 1, got 0"),
        (forecasting, {"stride": 0, "context": 4, "horizon": 2}, r"stride: expected a whole number >= 1, got 0"),
        (forecasting, {"channels": "OT"}, r"channels: expected one of 'all', 'target', got 'OT'"),
        (forecasting, {"channels": [2]}, r"channels: expected indices from 0 to 1, got 2"),
        (forecasting, {"channels": [0, 0]}, r"channels: expected different indices, at least one, got \[0, 0\]"),
        (forecasting, {"channels": []}, r"channels: expected different indices, at least one, got \[\]"),
        (forecasting, {"channels": ["c0"]}, r"channels: expected 'all', 'target' or indices, got 'c0'"),
        (forecasting, {"normalize": "test"}, r"normalize: expected one of 'train', 'none', got 'test'"),
        (forecasting, {"missing": "fill"}, r"missing: expected one of 'error', 'drop', 'keep', got 'fill'"),
        (imputation, {"context": 12}, r"span: expected a divisor of context = 12, got 8"),
        (imputation, {"context": 8, "span": 4, "fraction": 0.2}, r"fraction: expected 1 to 1 hidden of 2 spans, got 0.2, which hides 0"),
        (imputation, {"context": 8}, r"span: expected at most half of context = 8, got 8"),
        (imputation, {"fraction": 1.0}, r"fraction: expected a finite number > 0 and < 1, got 1"),
        (windows, {"split": "val"}, r"split: expected one of 'train', 'validation', 'test', got 'val'"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(toy(), **options)


def test_gaps_without_an_option_and_gaps_everywhere():
    series = with_gaps((3, 1), (7, 0))
    for function in (forecasting, imputation, windows):
        with pytest.raises(
            ValueError,
            match=r"'toy', row 3, column 'c1': expected a number, got NaN \(2 in all\); miss",
        ):
            function(series, context=32)
    gaps = with_gaps(*((row, 0) for row in range(84, 96)), num_channels=1)
    for missing in ("drop", "keep"):
        with pytest.raises(
            ValueError, match="expected windows between the gaps of the validation part"
        ):
            forecasting(gaps, context=8, horizon=2, missing=missing)
    empty = with_gaps(*((row, 1) for row in range(84)))
    with pytest.raises(
        ValueError, match="expected observed steps in the training part of 'c1', got none"
    ):
        forecasting(empty, context=8, horizon=2, missing="drop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"values": np.zeros(4)},
            r"values: expected float64 \(time, channels\) for 'toy', got float64 \(4,\)",
        ),
        ({"values": np.zeros((4, 1), np.float32)}, r"values: expected float64"),
        ({"names": ("a", "b")}, r"names: expected 1 for 'toy', got 2"),
        (
            {"borders": (2, 3, 5)},
            r"borders: expected increasing ends within the 4 steps of 'toy', got 2, 3, 5",
        ),
        ({"dates": np.zeros(3)}, r"dates: expected 4 for 'toy', got 3"),
    ],
)
def test_series_that_do_not_fit(change, message):
    parts = {"values": np.zeros((4, 1)), "names": ("a",), "borders": (2, 3, 4)}
    with pytest.raises(ValueError, match=message):
        Series("toy", source="", licence="", **{**parts, **change})


def test_options_of_the_other_task_are_refused():
    with pytest.raises(ValueError, match=r"span: expected options of forecasting \(task, .*got it"):
        ENTRIES["sunspots"].embedded(span=4)
    with pytest.raises(ValueError, match="task: expected one of 'forecasting', 'imputation', got 'x'"):
        ENTRIES["sunspots"].embedded(task="x")
    with pytest.raises(ValueError, match="sentinel: expected options of 'sunspots'"):
        ENTRIES["sunspots"].check_options({"sentinel": 1})


def test_entries_say_what_they_are():
    assert len(ENTRIES) == len(series_data.ENTRIES) == 16
    for entry in series_data.ENTRIES:
        assert entry.modality == "series"
        assert (entry.read is None) != (entry.embedded is None)
        assert entry.task == (
            "classification" if entry.title.endswith("(UCR archive, 2018)") else "forecasting"
        )
        assert entry.source
        assert entry.citation
        assert entry.licence
        for download in entry.downloads:
            assert download.url.startswith("https://")
            assert download.url.endswith(f"/{download.file}")
            assert download.sha256 is None or len(download.sha256) == 64
