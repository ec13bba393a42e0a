"""``poolax data tokens``."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import rich.console
import tyro
from etils import epath

from poolax import data
from poolax._checks import did_you_mean
from poolax.cli._console import COMPLETE, progress_bars, show, stderr, tell
from poolax.cli._data_options import DatasetOptions, errors_in_flags, in_flags, parse_options
from poolax.cli._options import OptionalCount, OptionalNumber, OptionalPath, OptionalText
from poolax.cli._program import asking

_SOURCE = tyro.conf.arg(
    metavar="SOURCE", help="Text file, folder, table, or name of a data set of texts."
)
_TOKENIZER = tyro.conf.arg(metavar="FOLDER|HUB-ID")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokenise texts of any size into files that a language model is pretrained from.

    poolax data tokens tales.txt --out tales --vocab-size 8192

    writes train.bin and val.bin, bare integers as nanoGPT reads them, tokenizer.json, and tokens.json,
    a record of what they hold. The tokenizer is one that is there, or a byte-level vocabulary of the
    texts that are not held out. Held out are whole documents.

    Attributes:
        source: A text file in UTF-8 or a folder of such, a table (CSV, TSV, JSON lines, Parquet), each
            row a document, or the name of a data set, of which the training split is taken.
        out: New folder for the tokens.
        tokenizer: Folder of a model or checkpoint, tokenizer.json, or hub id; by default one is
            trained.
        vocab_size: Tokens of the tokenizer that is trained, by default 4096.
        end_of_text: Token behind each document; by default <|endoftext|>, or the usual one of a
            tokenizer that is given.
        validation: Share of the bytes that is held out; 0 for none.
        near_copies: Leave out documents that nearly repeat one that is held out: Jaccard index of their
            runs of three words from which on they do, such as 0.3; by default none is compared.
        seed: Seed of what is held out.
        document: What a document of text files is; auto: what ends with <|endoftext|>, a file of 20 or
            more, else what stands between blank lines, else a line.
        separator: What stands behind each document of text files instead.
        text_column: Column of a table; by default one called text, sentence, ….
        pattern: Which files of a folder are taken.
        shard_tokens: Most tokens of a file.
        data_dir: Folder of the files of a data set that has a name.
        tfds_dir: Folder of TensorFlow Datasets; by default its own, ~/tensorflow_datasets.
        option: Option of the data set.
        as_json: Print a JSON record instead of text.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    source: Annotated[tyro.conf.Positional[str], _SOURCE]
    out: str
    tokenizer: Annotated[OptionalText, _TOKENIZER] = None
    vocab_size: OptionalCount = None
    end_of_text: OptionalText = None
    validation: float = 0.05
    near_copies: OptionalNumber = None
    seed: int = 0
    document: Literal["auto", "file", "paragraph", "line"] = "auto"
    separator: OptionalText = None
    text_column: OptionalText = None
    pattern: str = "*"
    shard_tokens: int = 1 << 28
    data_dir: OptionalPath = None
    tfds_dir: OptionalPath = None
    option: DatasetOptions = ()
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        source = self._source()
        try:
            with progress_bars(stderr()) as progress:
                record = data.tokens.write(
                    source,
                    self.out,
                    tokenizer=self.tokenizer,
                    vocab_size=self.vocab_size,
                    end_of_text=self.end_of_text,
                    validation=self.validation,
                    near_copies=self.near_copies,
                    seed=self.seed,
                    unit=self.document,
                    separator=self.separator,
                    text_column=self.text_column,
                    pattern=self.pattern,
                    shard_tokens=self.shard_tokens,
                    progress=asking(progress),
                )
        except OSError:
            raise
        except ValueError as error:
            raise ValueError(in_flags(str(error), ("encoding", "quotes"))) from error
        if self.as_json:
            show([], [record], as_json=True)
        else:
            _print(record, self.out, rich.console.Console())
        return COMPLETE

    def _source(self) -> Any:
        """A path, or the data set of that name."""
        if self.source in data.names():
            entry = data.entry(self.source)
            options = parse_options(entry, self.option)
            with errors_in_flags(entry):
                return data.load(self.source, data_dir=self.data_dir, tfds_dir=self.tfds_dir, **options)
        for name in ("data_dir", "tfds_dir", "option"):
            if getattr(self, name):
                raise ValueError(f"{name}: expected none for a file of your own, got one")
        if epath.Path(self.source).expanduser().exists():
            return self.source
        raise ValueError(
            "source: expected a text file, a folder, a table or a data set (poolax data list), got "
            f"{self.source!r}{did_you_mean(self.source, data.names())}"
        )


def _print(record: Mapping[str, Any], out: str, console: rich.console.Console) -> None:
    for split, part in record["splits"].items():
        counts = f"{part['documents']} documents, {part['bytes']} bytes, {part['tokens']} tokens"
        files = ", ".join(file["file"] for file in part["files"])
        tell(console, f"{split}: {counts} in {files}")
    end = f"{record['end_of_text_token']} (id {record['end_of_text']}) ends each"
    tell(console, f"a document: {record['document']}; {end}")
    tell(
        console, f"{record['vocab_size']} tokens of {record['dtype']}: {record['tokenizer']['origin']}"
    )
    for note in record["notes"]:
        tell(console, note)
    tell(console, f"Written: {out}")
