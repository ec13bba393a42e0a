"""``poolax data``."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar

import rich.console
import tyro
from etils import epath
from rich.text import Text

from poolax import data
from poolax._text import printable
from poolax.cli._console import COMPLETE, progress_bars, show, stderr
from poolax.cli._data_describe import describe_dataset
from poolax.cli._data_figures import contact_sheet, series_figure
from poolax.cli._data_list import describe_entry, print_entries
from poolax.cli._data_options import DatasetOptions, errors_in_flags, parse_options, with_option_flags
from poolax.cli._data_show import show_dataset
from poolax.cli._data_tokens import Tokens
from poolax.cli._options import OptionalPath
from poolax.cli._own_data import FileFlags, is_own, load_data
from poolax.cli._program import asking

_NAME = tyro.conf.arg(metavar="NAME", help="Name of a data set, see poolax data list.")
_Json = Annotated[bool, tyro.conf.arg(name="json")]


@dataclasses.dataclass(frozen=True)
class List:
    """List all data sets: task, size, licence, and how to get them.

    Attributes:
        as_json: Print JSON lines, a record for each data set, instead of tables.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    as_json: _Json = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        entries = [data.entry(name) for name in data.names()]
        if self.as_json:
            show([], map(describe_entry, entries), as_json=True)
        else:
            print_entries(entries, rich.console.Console())
        return COMPLETE


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Download a data set, compare checksums, and store it as array records.

    It is read from there ever after, without the network and without TensorFlow. The records appear
    at once when they are complete; a run that was stopped leaves none, and the next one goes on with
    the files that were downloaded.

    Attributes:
        name: Name of the data set.
        data_dir: Folder of its files, in place of a download.
        tfds_dir: Folder of TensorFlow Datasets; by default its own, ~/tensorflow_datasets.
        download_dir: Where downloads are kept; by default "downloads" in the folder above.
        option: Option of the data set.
        as_json: Print a JSON record instead of text.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    name: Annotated[tyro.conf.Positional[str], _NAME]
    data_dir: OptionalPath = None
    tfds_dir: OptionalPath = None
    download_dir: OptionalPath = None
    option: DatasetOptions = ()
    as_json: _Json = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        entry = data.entry(self.name)
        options = parse_options(entry, self.option)
        own = entry.tfds
        way = data.way_to_prepare(entry, self.data_dir)
        if own is not None and own.needs_tensorflow and way == "download":
            print(
                f"TFDS's own builder {own.name!r} needs TensorFlow, which is not installed; "
                "preparing from the files of the publisher.",
                file=sys.stderr,
            )
        with progress_bars(stderr()) as progress, errors_in_flags(entry):
            path = data.prepare(
                self.name,
                data_dir=self.data_dir,
                tfds_dir=self.tfds_dir,
                download_dir=self.download_dir,
                progress=asking(progress),
                **options,
            )
        record = {"kind": "prepared data", "name": self.name, "options": options, "path": str(path)}
        if self.as_json:
            show([], [record], as_json=True)
        else:
            rich.console.Console().print(Text(printable(f"Prepared: {path}")), soft_wrap=True)
        return COMPLETE


@dataclasses.dataclass(frozen=True)
class Show:
    """Show what is in a data set: splits, shapes, labels, samples, source and licence.

    Of images it writes a contact sheet, and of series a plot, as PNG into the folder --out. Start with

    poolax data show digits

    which needs no files. Other data sets are read from files (--data-dir) or as prepared, and your own
    from a file or folder in place of the name: texts in CSV, TSV, JSON lines or Parquet, images in a
    folder for each class, arrays in .npz, series as in the UCR archive or in CSV.

    poolax data show reviews.csv --text-column body --label-column topic

    Attributes:
        name: Name of the data set, or your own file or folder.
        data_dir: Folder of its files, or a folder of its name in there; by default the data set is
            read as it was prepared.
        tfds_dir: Folder of TensorFlow Datasets; by default its own, ~/tensorflow_datasets.
        out: Folder for pictures.
        option: Option of the data set.
        files: How your own files are read.
        as_json: Print a JSON record instead of tables.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    name: Annotated[tyro.conf.Positional[str], _NAME]
    data_dir: OptionalPath = None
    tfds_dir: OptionalPath = None
    out: str = "poolax-data"
    option: DatasetOptions = ()
    files: tyro.conf.OmitArgPrefixes[FileFlags] = dataclasses.field(default_factory=FileFlags)
    as_json: _Json = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        entry, dataset, options = load_data(
            self.name,
            self.files,
            data_dir=self.data_dir,
            tfds_dir=self.tfds_dir,
            option=self.option,
        )
        record = describe_dataset(entry, dataset, options)
        # Copies are told by the whole of every input, which published sets were looked at for.
        record["warnings"] = list(data.examine(dataset).warnings) if is_own(self.name) else []
        if entry.modality != "language":
            record["picture"] = str(self._draw(entry, dataset))
        if self.as_json:
            show([], [record], as_json=True)
        else:
            show_dataset(record, rich.console.Console())
        return COMPLETE

    def _draw(self, entry: data.Entry, dataset: data.Dataset) -> epath.Path:
        draw = contact_sheet if entry.modality == "vision" else series_figure
        path = epath.Path(self.out) / f"{dataset.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(dataset, path)
        return path


@dataclasses.dataclass(frozen=True)
class Data:
    """Data sets: list them, prepare one, look at one, write texts as tokens.

    Attributes:
        command: What to do.
    """

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Tokens, tyro.conf.subcommand("tokens")]
    ]

    @property
    def resumable(self) -> bool:
        """Whether the same command goes on from what is finished."""
        return self.command.resumable

    @property
    def debug(self) -> bool:
        """Whether to show where an error comes from."""
        return self.command.debug

    def run(self) -> int:
        """Run the command and give its exit code."""
        return self.command.run()


_COMMANDS = {"list": List, "prepare": Prepare, "show": Show, "tokens": Tokens}


def expand_options(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``poolax data`` with flags of the data set as ``--option KEY=VALUE``.

    Raises:
        ValueError: for a flag that neither the command nor the data set has.
    """
    command = next((_COMMANDS[argument] for argument in arguments if argument in _COMMANDS), None)
    if command is None:
        return list(arguments)
    names = ("json" if field.name == "as_json" else field.name for field in dataclasses.fields(command))
    flags = {f"--{name.replace('_', '-')}" for name in names if name not in ("name", "files")}
    return with_option_flags(arguments, flags | {"--help"})
