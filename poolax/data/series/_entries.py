"""What is known of each data set of series."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from etils import epath

from poolax._checks import check_choice
from poolax._dataset import Dataset
from poolax.data._entry import Download, Entry, Stored, other_size
from poolax.data.series._long import LONG_SERIES, read_long, read_series, with_sentinel
from poolax.data.series._rows import rows_of_series, series_of_rows
from poolax.data.series._series import Series
from poolax.data.series._tasks import forecasting, imputation
from poolax.data.series._ucr import UCR_LICENCE, UCR_SOURCE, read_ucr

UCR_CITATION = (
    "Dau, Bagnall, Kamgar, Yeh, Zhu, Gharghabi, Ratanamahatana and Keogh, "
    '"The UCR Time Series Archive", IEEE/CAA Journal of Automatica Sinica 6(6), 2019'
)
ETT_CITATION = (
    "Zhou, Zhang, Peng, Zhang, Li, Xiong and Zhang, "
    '"Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting", AAAI 2021'
)
AUTOFORMER_CITATION = (
    'Wu, Xu, Wang and Long, "Autoformer: Decomposition Transformers with Auto-Correlation for '
    'Long-Term Series Forecasting", NeurIPS 2021'
)
ZIPS = "https://www.timeseriesclassification.com/aeon-toolkit"
ETT_FILES = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"
AUTOFORMER_FILES = "https://huggingface.co/datasets/thuml/Time-Series-Library/resolve/main"

TASKS = {"forecasting": forecasting, "imputation": imputation}
COMMON_OPTIONS = {
    "task": "forecasting or imputation",
    "context": "steps of a window that are seen",
    "stride": "steps from the start of a window to that of the next",
    "channels": "all, target, or indices",
    "normalize": "train: by mean and deviation of the training part; none",
    "instance_norm": "shift and scale by mean and deviation of what is seen",
    "missing": "gaps: error, drop windows that touch one, or keep as missing",
}
TASK_OPTIONS = {
    "forecasting": {"horizon": "steps that are predicted"},
    "imputation": {
        "span": "steps of a hidden span",
        "fraction": "share of the spans that are hidden",
        "seed": "seed of the hidden spans",
    },
}
OPTIONS = {**COMMON_OPTIONS, **TASK_OPTIONS["forecasting"], **TASK_OPTIONS["imputation"]}
UCR_OPTIONS = {"missing": "missing values and several lengths: error, or keep as NaN"}


def _windowed(
    name: str,
    directory: epath.PathLike | None = None,
    *,
    sentinel: float | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    steps: int | None = None,
    **options: Any,
) -> Dataset:
    series = read_series(name, directory, sentinel=sentinel)
    _check_steps(series, None if options.pop("partial", False) else steps)
    return _cut(series, defaults, **options)


def _check_steps(series: Series, published: int | None) -> None:
    found = len(series.values)
    if published is not None and found != published:
        raise other_size(str(series.file), "rows", found, published)


def _derive(
    rows: Dataset, attributes: Mapping[str, Any], *, sentinel: float | None = None, **options: Any
) -> Dataset:
    return _cut(with_sentinel(series_of_rows(rows, attributes), sentinel), None, **options)


def _cut(
    series: Series,
    defaults: Mapping[str, Mapping[str, Any]] | None,
    *,
    task: str = "forecasting",
    **options: Any,
) -> Dataset:
    check_choice("task", task, TASKS)
    allowed = {**COMMON_OPTIONS, **TASK_OPTIONS[task]}
    for option in options:
        if option not in allowed:
            raise ValueError(f"{option}: expected options of {task} ({', '.join(allowed)}), got it")
    usual = defaults[task] if defaults else {}
    return TASKS[task](series, **{**usual, **options})


def _read_rows(
    name: str, steps: int, directory: epath.PathLike, *, partial: bool = False
) -> tuple[Dataset, Mapping[str, Any]]:
    series = read_long(name, directory)
    _check_steps(series, None if partial else steps)
    return rows_of_series(series)


def _classification(entry: str, name: str, directory: epath.PathLike, **options: Any) -> Dataset:
    return dataclasses.replace(read_ucr(name, directory, **options), name=entry)


def _ucr(entry: str, name: str, train: int, test: int, sha256: str | None = None, *, verified=False):
    return Entry(
        name=entry,
        modality="series",
        task="classification",
        title=f"{name} (UCR archive, 2018)",
        sizes={"train": train, "test": test},
        source=UCR_SOURCE,
        citation=UCR_CITATION,
        licence=UCR_LICENCE,
        preprocessing="none: series as the archive has them",
        layout=f"{name}/{name}_{{TRAIN,TEST}}.tsv, or .txt or .ts, or {name}.zip with these",
        read=functools.partial(_classification, entry, name),
        options=UCR_OPTIONS,
        downloads=(Download(f"{ZIPS}/{name}.zip", sha256, f"{name}.zip"),),
        notes=(
            "its download comes from timeseriesclassification.com, which distributes the sets of the "
            "archive one by one",
        ),
        verified=verified,
    )


def _long(
    name: str, title: str, steps: int, url: str, sha256: str, citation: str, *, verified=False
) -> Entry:
    spec = LONG_SERIES[name]
    train, validation, test = spec.borders(steps)
    sentinel = {"sentinel": "a number that stands for a missing value, such as -9999 of weather"}
    return Entry(
        name=name,
        modality="series",
        task="forecasting",
        title=title,
        sizes={"train": train, "validation": validation - train, "test": test - validation},
        source=spec.source,
        citation=citation,
        licence=spec.licence,
        preprocessing="each channel normalised by mean and deviation of its training part; sizes "
        "are steps",
        layout=f"{spec.file}, or {' or '.join(f'{folder}/{spec.file}' for folder in spec.folders)}",
        read=functools.partial(_windowed, name, steps=steps),
        options={**OPTIONS, **sentinel},
        downloads=(Download(f"{url}/{spec.file}", sha256, spec.file),),
        stored=Stored(read=functools.partial(_read_rows, name, steps), derive=_derive),
        verified=verified,
    )


def _embedded(name: str, title: str, citation: str, defaults: Mapping[str, Mapping[str, Any]]) -> Entry:
    return Entry(
        name=name,
        modality="series",
        task="forecasting",
        title=title,
        source="statsmodels",
        citation=citation,
        licence="public domain, as statsmodels states",
        preprocessing="normalised by mean and deviation of the training part",
        embedded=functools.partial(_windowed, name, defaults=defaults),
        options=OPTIONS,
        verified=True,
    )


ENTRIES: tuple[Entry, ...] = (
    _ucr(
        "ecg200",
        "ECG200",
        100,
        100,
        "755937ea37849346ea20033666b19d17345bb039971e8fa33458b16b62c09380",
        verified=True,
    ),
    _ucr("electric_devices", "ElectricDevices", 8926, 7711),
    _ucr("ford_a", "FordA", 3601, 1320),
    _ucr("ford_b", "FordB", 3636, 810),
    _ucr("small_kitchen_appliances", "SmallKitchenAppliances", 375, 375, verified=True),
    _ucr("swedish_leaf", "SwedishLeaf", 500, 625, verified=True),
    _ucr(
        "italy_power_demand",
        "ItalyPowerDemand",
        67,
        1029,
        "4b68635dc79855fbdb7787d5dff5bac978fd0448afaa8eb7811dae52d43e5e46",
        verified=True,
    ),
    _long(
        "etth1",
        "Electricity Transformer Temperature, station 1, hourly",
        17420,
        ETT_FILES,
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        ETT_CITATION,
        verified=True,
    ),
    _long(
        "etth2",
        "Electricity Transformer Temperature, station 2, hourly",
        17420,
        ETT_FILES,
        "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
        ETT_CITATION,
    ),
    _long(
        "ettm1",
        "Electricity Transformer Temperature, station 1, every 15 minutes",
        69680,
        ETT_FILES,
        "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
        ETT_CITATION,
    ),
    _long(
        "ettm2",
        "Electricity Transformer Temperature, station 2, every 15 minutes",
        69680,
        ETT_FILES,
        "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd",
        ETT_CITATION,
    ),
    _long(
        "electricity",
        "Hourly electricity consumption of 321 clients",
        26304,
        f"{AUTOFORMER_FILES}/electricity",
        "7e45845d54c5219bad0ae6bc1b5316cf8ff9cead5d33fa998a5a51c2e4a497ad",
        AUTOFORMER_CITATION,
    ),
    _long(
        "traffic",
        "Hourly road occupancy at 862 sensors of the San Francisco Bay area",
        17544,
        f"{AUTOFORMER_FILES}/traffic",
        "cb06463d56fa17d87f47027cd9389ceae82a69eddee51cdb61480e120dab0b16",
        AUTOFORMER_CITATION,
    ),
    _long(
        "weather",
        "21 weather measurements at Jena every 10 minutes of 2020",
        52696,
        f"{AUTOFORMER_FILES}/weather",
        "34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        AUTOFORMER_CITATION,
    ),
    _embedded(
        "co2",
        "Weekly carbon dioxide at Mauna Loa, 1958 to 2001",
        "Keeling and Whorf, Atmospheric CO2 concentrations derived from flask air samples at sites in "
        "the SIO network, in Trends: A Compendium of Data on Global Change, 2004",
        {
            "forecasting": {"context": 104, "horizon": 26, "missing": "drop"},
            "imputation": {"context": 104, "missing": "drop"},
        },
    ),
    _embedded(
        "sunspots",
        "Yearly sunspot numbers, 1700 to 2008",
        "National Geophysical Data Center, Yearly sunspots data 1700-2008",
        {
            "forecasting": {"context": 64, "horizon": 8},
            "imputation": {"context": 24, "stride": 1},
        },
    ),
)
