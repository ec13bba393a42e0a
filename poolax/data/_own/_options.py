"""How a user's files are read, and for which kinds of them each option is."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

from etils import epath

from poolax.data._encoded import Fit
from poolax.data._own._assemble import Splitting
from poolax.data._own._series import Missing
from poolax.data._own._table import SEPARATED
from poolax.data.vision._images import IMAGE_SIZE

Kind = Literal[
    "texts", "images", "arrays", "memory", "lines", "steps", "long", "hub_texts", "hub_images"
]
_KINDS: dict[Kind, str] = {
    "texts": "a table of texts",
    "images": "a folder of images",
    "arrays": "a file of arrays",
    "memory": "arrays in memory",
    "lines": "a file with a series in each line",
    "steps": "a table with series_column",
    "long": "a long series",
    "hub_texts": "texts of the library datasets",
    "hub_images": "images of the library datasets",
}
_CUT: tuple[Kind, ...] = (
    *("texts", "images", "arrays", "memory", "lines", "steps", "hub_texts", "hub_images"),
)
_TEXTS: tuple[Kind, ...] = ("texts", "hub_texts")
_TABLES: tuple[Kind, ...] = ("texts", "steps", "long")
# What an option is for, and the kinds on which it acts.
_FOR: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "text_column": ("tables of texts", _TEXTS),
    "label_column": ("tables with labels", (*_TEXTS, "steps", "hub_images")),
    "pair_columns": ("tables of pairs of texts", _TEXTS),
    "score_column": ("tables of texts with numbers to predict", _TEXTS),
    "split_column": ("a table of texts that holds all splits", _TEXTS),
    "validation": ("examples that are split by chance", _CUT),
    "test": ("examples that are split by chance", _CUT),
    "seed": ("examples that are split by chance", _CUT),
    "encoding": ("text files", _TABLES),
    "quotes": ("CSV and TSV", _TABLES),
    "size": ("images", ("images", "hub_images")),
    "fit": ("images", ("images", "hub_images")),
    "skip_bad": ("a folder of images", ("images",)),
    "time_column": ("tables of series", ("steps", "long")),
    "series_column": ("tables of series with a row for each step", ("steps",)),
    "value_column": ("tables of series with series_column", ("steps",)),
    "task": ("a long series, with time_column", ("long",)),
    "context": ("a long series, with time_column", ("long",)),
    "horizon": ("forecasts of a long series, with time_column", ("long",)),
    "stride": ("forecasts of a long series, with time_column", ("long",)),
    "missing": ("files with a series in each line", ("lines",)),
}
# Kinds whose splits may stand in several files.
_IN_FILES: tuple[Kind, ...] = ("texts", "arrays", "lines")


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of :func:`poolax.data.from_files`, which describes them."""

    text_column: str | None = None
    label_column: str | None = None
    pair_columns: Sequence[str] | None = None
    score_column: str | None = None
    split_column: str | None = None
    validation: Any = None
    test: Any = None
    seed: int = 0
    encoding: str = "utf-8"
    quotes: bool = True
    size: int = IMAGE_SIZE
    fit: Fit = "crop"
    skip_bad: bool = False
    time_column: str | None = None
    series_column: str | None = None
    value_column: str | None = None
    task: Literal["forecasting", "imputation"] = "forecasting"
    context: int = 512
    horizon: int = 96
    stride: int = 1
    missing: Missing = "error"

    @property
    def splitting(self) -> Splitting:
        """How splits are cut off."""
        validation, test = (None if is_path(part) else part for part in (self.validation, self.test))
        return Splitting(validation, test, self.seed)

    @property
    def files(self) -> dict[str, Any]:
        """The files that are named for splits."""
        parts = {"validation": self.validation, "test": self.test}
        return {split: part for split, part in parts.items() if is_path(part)}

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a table of texts."""
        names = ("text_column", "label_column", "pair_columns", "score_column", "split_column")
        return {name: getattr(self, name) for name in names}

    def given(self) -> dict[str, Any]:
        """The options that are not as by default."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        usual = {one.name: one.default for one in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value != usual[name]}

    def check_kind(self, kind: Kind, where: str) -> None:
        """Refuse options that do nothing to data of a kind.

        Args:
            kind: What is read.
            where: Its path or name, for messages.

        Raises:
            ValueError: for the first such option; the error says what it is for.
        """
        for name in self.given():
            purpose, kinds = _FOR[name]
            if kind not in kinds:
                raise ValueError(f"{name}: expected for {purpose}, got it for {_KINDS[kind]}, {where}")
        for split, file in self.files.items():
            if kind not in _IN_FILES:
                raise ValueError(
                    f"{split}: expected a share, above 0 and below 1, for {_KINDS[kind]}, {where}, got "
                    f"the file {file}"
                )
        if kind == "long" and self.task == "imputation":
            for name in ("horizon", "stride"):
                if name in self.given():
                    raise ValueError(f"{name}: expected for forecasts, got it for imputation")

    def check_files(self, files: Sequence[epath.Path]) -> None:
        """Refuse options that do nothing to tables in files of their formats.

        Args:
            files: The files of all splits.

        Raises:
            ValueError: for the first such option.
        """
        given, endings = self.given(), {file.suffix.lower() for file in files}
        if "encoding" in given and endings == {".parquet"}:
            raise ValueError(f"encoding: expected for text files, got it for {files[0]}")
        if "quotes" in given and endings.isdisjoint(SEPARATED):
            raise ValueError(f"quotes: expected for CSV and TSV, got it for {files[0]}")

    def check_tables(self, splits: Sequence[str], where: str) -> None:
        """Refuse a column of splits where each split is a table.

        Args:
            splits: The splits that have tables.
            where: Their path or name, for messages.

        Raises:
            ValueError: if there are several.
        """
        if self.split_column is not None and len(splits) > 1:
            raise ValueError(
                "split_column: expected for a table that holds all splits, got it for one each of "
                f"{', '.join(splits)}, {where}"
            )


def is_path(value: Any) -> bool:
    """Whether an argument is the path of a file or folder."""
    return isinstance(value, (str, os.PathLike))
