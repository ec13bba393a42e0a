"""``poolax embed``."""

import dataclasses
import io
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from poolax._paths import absolute_path, write_atomically
from poolax._text import one_line
from poolax.backbones import Backbone
from poolax.cli._console import COMPLETE, progress_bars, show, stderr
from poolax.cli._inputs import read_inputs
from poolax.cli._models import load_model
from poolax.cli._options import OptionalPath, OptionalText
from poolax.cli._program import asking
from poolax.reporting import Cell, Table
from poolax.training import embed

_MOST_SHOWN = 8
_LONGEST = 40


@dataclasses.dataclass(frozen=True)
class Embed:
    """Embeddings of texts and other inputs, pooled as the model's checkpoint was trained.

    The cosines of two texts, and a file of embeddings, one for each line of another:

        poolax embed sentence-transformers/all-MiniLM-L6-v2 --text "My card is broken." "A rainy day."
        poolax embed sentence-transformers/all-MiniLM-L6-v2 --inputs texts.txt --out embeddings.npy

    Of a sentence-transformers folder these are the vectors that library gives: its limit of tokens, its
    prompts, its pooling, its normalisation. The table has the cosines of the first ones.

    Attributes:
        model: Directory or hub id of a backbone whose checkpoint says how it pools.
        text: Texts, for language models.
        inputs: File of inputs. Texts: .txt, one a line. Images: .npy or .npz, or a .png, .jpg or folder
            of them. Series: .npy, .npz, .csv or .tsv.
        prompt: What stands in front of every text.
        prompt_name: Name of one of the checkpoint's prompts instead.
        out: File of the embeddings, .npy, one a row.
        as_json: Print JSON lines, a record with each embedding, instead of the table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    text: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="TEXT [TEXT ...]")] = None
    inputs: OptionalPath = None
    prompt: OptionalText = None
    prompt_name: OptionalText = None
    out: OptionalPath = None
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        if self.text == ():
            raise ValueError("text: expected at least one behind --text, got none")
        if not self.text and self.inputs is None:
            raise ValueError("inputs: expected --text or a file behind --inputs, got neither")
        if self.out is not None and not self.out.endswith(".npy"):
            raise ValueError(f"out: expected a file .npy, got {self.out}")
        backbone = load_model(self.model)
        if not isinstance(backbone, Backbone):
            raise ValueError(
                f"model: expected a backbone, got {type(backbone).__name__} ({self.model})"
            )
        given = read_inputs(backbone, self.text or (), self.inputs, None)
        with progress_bars(stderr()) as progress:
            vectors = embed(
                backbone,
                given.raw,
                prompt=self.prompt,
                prompt_name=self.prompt_name,
                progress=asking(progress),
            )
        if self.out is not None:
            content = io.BytesIO()
            np.save(content, vectors)
            write_atomically(absolute_path(self.out), content.getvalue())
        what = {"kind": "embedding", "backbone": self.model, "inputs": given.source}
        records = [
            {**what, "index": index, "embedding": vector.tolist()}
            for index, vector in enumerate(vectors)
        ]
        show([self._table(given.raw, vectors)], records, as_json=self.as_json)
        return COMPLETE

    def _table(self, raw: Any, vectors: np.ndarray) -> Table:
        shown = np.asarray(vectors[:_MOST_SHOWN], np.float64)
        lengths = np.linalg.norm(shown, axis=-1, keepdims=True)
        units = shown / np.where(lengths > 0, lengths, 1)
        rows = []
        for index, cosines in enumerate(units @ units.T):
            label = raw[index] if isinstance(raw[index], str) else f"input {index}"
            rows.append(
                [Cell(one_line(label, longest=_LONGEST)), *(Cell(f"{one:.3f}") for one in cosines)]
            )
        kept = "" if self.out is None else f" They are in {self.out}."
        notes = [f"{len(vectors)} embeddings of {vectors.shape[-1]} numbers.{kept}"]
        columns = ["cosine", *map(str, range(len(shown)))]
        return Table(f"Embeddings by {self.model}", columns, rows, notes=notes, tidy=[])
