"""``poolax lipschitz``."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
import tyro

from poolax._checks import check_count
from poolax.backbones import Backbone
from poolax.bounds import METHODS
from poolax.cli._console import COMPLETE, progress_bars, show, stderr
from poolax.cli._inputs import Inputs, read_array, read_inputs
from poolax.cli._models import Blocks, inputs_beside, load_model
from poolax.cli._options import OptionalPath
from poolax.cli._program import asking
from poolax.cli._rows import describe_block, describe_domain
from poolax.measure import embeddings_domain, measure_backbone, measure_block
from poolax.pooling import FIXED_POOLERS
from poolax.quickstart import INPUTS
from poolax.reporting import Cell, Table, constant_text, geometry_notes, number_text
from poolax.training import Head


@dataclasses.dataclass(frozen=True)
class Lipschitz:
    """Measured Lipschitz constants of a model at inputs, beside all bounds.

    For a backbone, how far the pooled vector moves for a small change of the embeddings (Jacobian
    norms by Lanczos iteration), for every pooler without parameters:

        poolax lipschitz sentence-transformers/all-MiniLM-L6-v2 --text "How do I activate my card?"

    For the blocks that "poolax quickstart" trained, exact Jacobian norms at its test inputs:

        poolax lipschitz poolax-quickstart

    A change is measured by its Frobenius norm; with --geometry tokens by the largest norm of a
    token's change, where norms are what power iteration finds, from below.

    The local bound holds at each input alone; sharp and tight ones hold for all tokens that are as long
    and as far apart as these. Without inputs, some that need no download are taken, and named below
    the table.

    Attributes:
        model: Directory or hub id of a backbone, or blocks of the quickstart ("poolax-quickstart").
        text: Texts, for language models.
        inputs: File of inputs. Texts: .txt, one a line. Images: .npy or .npz of shape (N, height,
            width, channels), or a .png, .jpg or folder of them, cut and scaled to the model's size.
            Series: .npy or .npz (N, steps), .csv (one a column, names in the first line), .tsv (UCR
            layout: one a row, its class in front). Blocks: .npy or .npz (N, n, d).
        num_inputs: Most inputs to take.
        poolers: Poolers behind a backbone, without parameters.
        geometry: Norm of a change: of all tokens together, or the largest of a token.
        seed: Seed of the iterations.
        as_json: Print JSON lines, a record for each pooler, instead of the table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    text: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="TEXT [TEXT ...]")] = None
    inputs: OptionalPath = None
    num_inputs: int = 8
    poolers: tuple[str, ...] = FIXED_POOLERS
    geometry: Literal["frobenius", "tokens"] = "frobenius"
    seed: int = 0
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("num_inputs", self.num_inputs)
        check_count("seed", self.seed, at_least=0)
        if not self.poolers:
            raise ValueError("poolers: expected at least one, got none")
        if self.text == ():
            raise ValueError("text: expected at least one behind --text, got none")
        model = load_model(self.model)
        if isinstance(model, Head):
            raise ValueError(
                f"model: expected a backbone or blocks, got a head ({self.model}), whose Lipschitz "
                'constant "poolax bounds" gives'
            )
        if isinstance(model, Backbone):
            records, source = self._of_backbone(model)
        else:
            records, source = self._of_blocks(model)
        show([_table(records, source, self.model)], records, as_json=self.as_json)
        return COMPLETE

    def _of_backbone(self, backbone: Backbone) -> tuple[list[dict[str, Any]], str]:
        given = read_inputs(backbone, self.text or (), self.inputs, self.num_inputs)
        embeddings, mask = backbone.embed(backbone.params, *backbone.prepare(given.raw))
        what = {"kind": "lipschitz_at_inputs", "backbone": self.model, "inputs": given.source}
        what |= {"num_inputs": len(embeddings), "dim": embeddings.shape[-1]}
        what |= describe_domain(*embeddings_domain(embeddings, mask), self.geometry)
        with progress_bars(stderr()) as progress:
            rows = measure_backbone(
                backbone,
                embeddings,
                mask,
                poolers=self.poolers,
                key=jax.random.key(self.seed),
                geometry=self.geometry,
                progress=asking(progress),
            )
        return [{**what, **row} for row in rows], given.source

    def _of_blocks(self, blocks: Blocks) -> tuple[list[dict[str, Any]], str]:
        if self.text:
            raise ValueError("text: expected none for blocks, which take token states")
        if self.poolers != FIXED_POOLERS:
            raise ValueError("poolers: expected none for blocks, which have their own")
        given = self._token_states()
        records = []
        with progress_bars(stderr()) as progress:
            for name, block in blocks.items():
                what = describe_block(block.model, block.variables)
                what |= {"checkpoint": name, "inputs": given.source, "num_inputs": len(given.raw)}
                what |= describe_domain(*embeddings_domain(given.raw), self.geometry)
                row = measure_block(block.model, block.variables, given.raw, geometry=self.geometry)
                records.append({"kind": "lipschitz_at_inputs", **what, **row})
                asking(progress)("blocks", len(records), len(blocks))
        return records, given.source

    def _token_states(self) -> Inputs:
        path: Any = self.inputs or inputs_beside(self.model, INPUTS)
        if path is None:
            raise ValueError("inputs: expected a .npy or .npz file of token states, got none")
        states = read_array(path)[: self.num_inputs]
        if states.ndim != 3 or len(states) == 0:
            raise ValueError(f"inputs: expected shape (N, n, d), got {states.shape}")
        source = str(path) if self.inputs else "tokens of test inputs of the quickstart"
        return Inputs(states.astype(np.float32), source)


def _table(records: Sequence[Mapping[str, Any]], source: str, title: str) -> Table:
    first = records[0]
    of_blocks = "attention" in first
    bounds_ = ["local", *reversed(METHODS)]
    rows = []
    for row in records:
        measured = row["measured"]
        cells = [Cell(row["attention"])] if of_blocks else []
        cells += [Cell(row["pooler"]), Cell(number_text(statistics.median(measured)))]
        cells += [Cell(number_text(max(measured))), Cell(_local_text(row))]
        rows.append([*cells, *(Cell(constant_text(row, name)) for name in bounds_[1:])])
    low, high = first["num_tokens"]
    n = f"{low}" if low == high else f"{low} to {high}"
    kind = "Jacobian norms" if of_blocks else "Jacobian norms, from embeddings to pooled vectors,"
    if of_blocks and first.get("geometry", "frobenius") == "frobenius":
        kind = f"Exact {kind}"
    notes = [
        f"{kind} at {first['num_inputs']} inputs of {n} tokens ({source}): median and largest. "
        "local: largest of the bounds at these inputs. tight, sharp, published: for all tokens with "
        f"norms up to {first['radius']:.4g} and distances up to {2 * first['spread']:.4g}; a dash: no "
        "such bound."
    ]
    notes += geometry_notes(first)
    if not all(row.get("converged", True) for row in records):
        notes.append("Some iterations did not converge: these norms are lower estimates.")
    columns = ["attention"] if of_blocks else []
    columns += ["pooler", "median", "largest", *bounds_]
    return Table(
        title=f"Lipschitz constants of {title}", columns=columns, rows=rows, notes=notes, tidy=[]
    )


def _local_text(row):
    if "local" in row:
        return number_text(max(row["local"]))
    logs = row["log10_local"]
    if any(log is None or log == math.inf for log in logs):
        return "–"
    return number_text(10 ** min(max(logs), 300.0), max(logs))
