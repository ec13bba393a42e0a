"""What stands in a user's file, folder or object, and reading it as that."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from poolax._checks import check_choice, check_count
from poolax._dataset import Dataset
from poolax._files import DamagedFileError
from poolax._progress import Progress
from poolax.data._damage import RESTORE
from poolax.data._own._arrays import from_arrays, read_npz
from poolax.data._own._assemble import labelled
from poolax.data._own._columns import Columns, choose_columns
from poolax.data._own._huggingface import (
    Parts,
    RowImages,
    is_huggingface,
    is_saved,
    load_saved,
    parts_of,
)
from poolax.data._own._images import has_images, image_folder
from poolax.data._own._options import Options, is_path
from poolax.data._own._series import grouped_series, is_ucr, long_series, ucr_dataset
from poolax.data._own._split import ALIASES
from poolax.data._own._table import TABLES, Table, labels_of, read_table
from poolax.data._own._texts import texts_dataset


def read(path: Any, options: Options, name: str | None, progress: Progress) -> Dataset:
    """A data set from what :func:`poolax.data.from_files` takes, which describes the arguments."""
    check_count("seed", options.seed, at_least=0)
    if is_huggingface(path):
        name = name or str((getattr(path, "info", None) and path.info.dataset_name) or "datasets")
        return _from_parts(parts_of(path, name), name, options, name)
    if isinstance(path, tuple) and len(path) == 2:
        options.check_kind("memory", name or "(inputs, targets)")
        cut = dataclasses.asdict(options.splitting)
        return from_arrays(*path, **cut, name=name or "arrays")
    given = _existing("path", path)
    name = name or given.stem.removesuffix("_TRAIN")
    source = str(given)
    named = {split: _existing(split, file) for split, file in options.files.items()}
    files = {"train": given, **named}
    if given.is_dir():
        if is_saved(given):
            return _from_parts(parts_of(load_saved(given), source), name, options, source)
        if has_images(given):
            options.check_kind("images", source)
            return image_folder(
                given,
                name,
                options.splitting,
                size=options.size,
                fit=options.fit,
                skip_bad=options.skip_bad,
                progress=progress,
            )
        files = {**_files_of_splits(given), **named}
        given = files["train"]
    if given.suffix.lower() in (".npz", ".npy"):
        options.check_kind("arrays", source)
        return read_npz(files, name, options.splitting)
    in_rows = options.series_column is not None or options.time_column is not None
    if not in_rows and is_ucr(given):
        options.check_kind("lines", source)
        return _from_lines({**files, **_beside(given), **files}, name, options, source)
    _check_suffix(given)
    return _from_tables(files, name, options, source)


def _from_lines(files: Mapping[str, epath.Path], name: str, options: Options, source: str) -> Dataset:
    """Labelled series in the archive's format."""
    try:
        return ucr_dataset(name, files, options.splitting, missing=options.missing, source=source)
    except DamagedFileError as error:
        raise ValueError(str(error).replace(f"; {RESTORE}", "")) from None


def _from_tables(files: Mapping[str, epath.Path], name: str, options: Options, source: str) -> Dataset:
    """Texts or series from tables."""
    is_steps, is_long = options.series_column is not None, options.time_column is not None
    options.check_kind("steps" if is_steps else "long" if is_long else "texts", source)
    options.check_files(list(files.values()))
    tables = {
        split: read_table(file, encoding=options.encoding, quotes=options.quotes)
        for split, file in files.items()
    }
    if options.series_column is not None:
        if options.value_column is None or options.label_column is None:
            argument = "value_column" if options.value_column is None else "label_column"
            raise ValueError(
                f"{argument}: expected the name of a column beside series_column, got none"
            )
        return grouped_series(
            name,
            _only(tables, "series_column"),
            options.splitting,
            series_column=options.series_column,
            value_column=options.value_column,
            label_column=options.label_column,
            time_column=options.time_column,
            source=source,
        )
    if options.time_column is not None:
        return long_series(
            name,
            _only(tables, "time_column"),
            time_column=options.time_column,
            task=options.task,
            context=options.context,
            horizon=options.horizon,
            stride=options.stride,
            source=source,
        )
    options.check_tables(list(tables), source)
    chosen = choose_columns(tables["train"], **options.columns)
    return texts_dataset(name, tables, chosen, options.splitting, source=source)


def _from_parts(
    parts: Parts,
    name: str,
    options: Options,
    source: str,
) -> Dataset:
    """A data set of Hugging Face's library."""
    options.check_kind("hub_texts" if parts.images is None else "hub_images", source)
    splitting = options.splitting
    # A share that is asked for takes the place of a split that is there.
    replaced = {
        split
        for split in ("validation", "test")
        if split in parts.tables and getattr(splitting, split) is not None
    }
    tables = {split: table for split, table in parts.tables.items() if split not in replaced}
    if parts.images is None:
        options.check_tables(list(tables), source)
        chosen = choose_columns(tables["train"], **options.columns)
    else:
        label = options.label_column or next(iter(parts.class_names), "label")
        tables["train"].column("label_column", label)
        chosen = Columns((), label, None, None)
    tables, unlabelled = _with_labels(tables, chosen.label)
    names = parts.class_names.get(chosen.label or "")
    if parts.images is None:
        dataset = texts_dataset(name, tables, chosen, splitting, source=source, class_names=names)
    else:
        images = [row for split in tables for row in parts.images[split]]
        labels = [labels_of(table, "label_column", chosen.label or "") for table in tables.values()]
        ends = np.cumsum([0, *map(len, labels)])
        dataset = labelled(
            name,
            RowImages(images, source, size=options.size, fit=options.fit),
            [label for part in labels for label in part],
            {split: np.arange(*ends[i : i + 2]) for i, split in enumerate(tables)},
            splitting,
            lambda index: f"{source}, example {index}",
            source=source,
            class_names=names,
        )
    return dataclasses.replace(dataset, notes=(*dataset.notes, *unlabelled))


def _with_labels(tables: Mapping[str, Table], label: str | None):
    """The tables without test splits of leaderboards, whose labels are kept back."""
    kept = {
        split: table
        for split, table in tables.items()
        if split == "train" or label is None or any(one is not None for one in table.columns[label])
    }
    return kept, tuple(f"{split} left out: it has no labels" for split in tables if split not in kept)


def _existing(argument: str, path: Any) -> epath.Path:
    if not is_path(path):
        raise ValueError(
            f"{argument}: expected a file, a folder, (inputs, targets), or a data set of the library "
            f"datasets, got {type(path).__name__}"
        )
    found = epath.Path(path).expanduser()
    if not found.exists():
        raise ValueError(f"{argument}: expected a file or folder, got {path}, where there is nothing")
    return found


def _files_of_splits(folder: epath.Path) -> dict[str, epath.Path]:
    """Files that are called by their splits, or the archive's one file of a training split."""
    kinds = (*TABLES, ".npz")
    files = {
        ALIASES[file.stem.lower()]: file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in kinds and file.stem.lower() in ALIASES
    }
    archived = [file for file in sorted(folder.iterdir()) if file.stem.endswith("_TRAIN")]
    if "train" not in files and len(archived) == 1:
        return {"train": archived[0]}
    if "train" not in files:
        raise ValueError(
            "path: expected a folder of images by class, one that save_to_disk wrote, or one with a "
            f"file called train ({', '.join(kinds)}) or NAME_TRAIN.tsv, got {folder}"
        )
    return files


def _beside(path: epath.Path) -> dict[str, epath.Path]:
    """The archive's file of the other split, where it stands beside that of the first."""
    other = path.with_name(path.name.replace("_TRAIN.", "_TEST."))
    return {"test": other} if other != path and other.exists() else {}


def _check_suffix(path: epath.Path) -> None:
    kinds = (*TABLES, ".npz", ".ts", ".txt")
    check_choice(f"ending of {path}", path.suffix.lower() or "none", kinds)
    if path.suffix.lower() not in TABLES:
        raise ValueError(
            f"{path}: expected a label and the numbers of a series in every line, got another text"
        )


def _only(tables: Mapping[str, Table], argument: str) -> Table:
    if len(tables) > 1:
        raise ValueError(f"{argument}: expected one file, whose splits are cut, got {len(tables)}")
    return tables["train"]
