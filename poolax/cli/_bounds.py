"""``poolax bounds``."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import tyro

from poolax import bounds
from poolax._checks import check_count, check_number
from poolax.backbones import Backbone
from poolax.bounds import Domain, TokenRange
from poolax.cli._console import COMPLETE, progress_bars, show, stderr
from poolax.cli._inputs import read_array, read_inputs
from poolax.cli._ledger import ledger_records
from poolax.cli._models import Blocks, inputs_beside, load_model
from poolax.cli._norms import POOLERS, Sizes, extremal_block, initial_variables, pooler_of
from poolax.cli._options import OptionalNumber, OptionalPath
from poolax.cli._program import asking
from poolax.cli._rows import (
    describe_block,
    describe_domain,
    describe_local,
    expressivity,
)
from poolax.measure import (
    Constant,
    backbone_ledgers,
    block_bounds,
    block_local,
    constant_fields,
    embeddings_domain,
    head_bounds,
    local_at_inputs,
    pooled_ledgers,
    pooled_sizes,
    pooler_bounds,
)
from poolax.pooling import FIXED_POOLERS, from_name, to_config
from poolax.quickstart import INPUTS
from poolax.reporting import bounds_table, ledger_table, pooled_table
from poolax.training import Head, TrainedTBM


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Closed-form Lipschitz bounds of pooled Transformers: how far can the pooled vector move?

    Prints one table, for every pooler behind a block with every kind of attention: the best published
    constant, the sharp and the tight bound of this library. Start with

    poolax bounds --num-tokens 16 64 --dim 384 --num-heads 12 --radius 2 --epsilon 0.001 --sigma 0.5

    for sequences of 16 to 64 tokens that are at most 2 long. With --epsilon and --sigma it also says
    whether no change of the input of size epsilon moves the pooled vector by more than sigma:
    "certified", or "vacuous" where the bound cannot tell. The size of a change is its Frobenius norm;
    with --geometry tokens it is the largest norm of a token's change, so that each token may change
    that much.

    Where inputs are known, of blocks the test inputs that "poolax quickstart" left beside them, of a
    backbone some that come with it or those of --text and --inputs, local bounds stand first: with
    --epsilon they hold on the ball of that radius around each of these inputs, where they certify more
    than others. Of deep backbones they are finite on tiny balls around short inputs (up to 4,096
    numbers in all tokens) alone.

    From sizes and norms alone, the bounds are the largest for weights with these norms: kernels are
    scaled partial isometries that line up. Learnable poolers (wavg, attn, map and others) are taken
    as they are initialised. For trained weights give a checkpoint: the blocks or a head that "poolax
    quickstart" left behind, or the directory or hub id of a backbone. Bounds of a backbone on a whole
    domain are products over layers, which say nothing of a deep model. Its layers are listed below.

    Attributes:
        checkpoint: Blocks ("poolax-quickstart"), a head, or a backbone; without it, sizes count.
        sizes: Sizes and spectral norms of a block; not beside a checkpoint.
        num_tokens: Number of tokens n, or the lowest and the highest of a padded batch. By default
            64, or what the checkpoint knows.
        radius: Largest norm of a token. By default 1, or what the checkpoint knows; for a backbone
            the largest at its inputs.
        cube: Side of the cube [0, side]^d that tokens lie in, in place of a radius.
        spread: Half of the largest distance between two tokens of a sequence; by default the radius.
        poolers: Poolers to bound.
        text: Texts to bound a language model at.
        inputs: File of inputs to bound a checkpoint at. Of blocks: .npy or .npz of token states, shape
            (N, n, d). Of backbones texts: .txt, one a line; images: .npy or .npz, or a .png, .jpg or
            folder of them; series: .npy, .npz, .csv or .tsv.
        num_inputs: Most inputs to take.
        geometry: Norm of a change: of all tokens together, or the largest of a token.
        epsilon: Size of a change of the input.
        sigma: Distance of pooled vectors that counts as a move.
        as_json: Print JSON lines, a record for each row, instead of the table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    checkpoint: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="CHECKPOINT")] = None
    sizes: tyro.conf.OmitArgPrefixes[Sizes] = dataclasses.field(default_factory=Sizes)
    num_tokens: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="LOW [HIGH]")] = None
    radius: OptionalNumber = None
    cube: OptionalNumber = None
    spread: OptionalNumber = None
    poolers: tuple[str, ...] = POOLERS
    text: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="TEXT [TEXT ...]")] = None
    inputs: OptionalPath = None
    num_inputs: int = 8
    geometry: Literal["frobenius", "tokens"] = "frobenius"
    epsilon: OptionalNumber = None
    sigma: OptionalNumber = None
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        self._check()
        if self.checkpoint is None:
            self._refuse_inputs("sizes and norms")
            return self._show(self._of_sizes(), 3 * len(self.poolers), "Bounds from sizes and norms")
        if self.sizes != Sizes():
            raise ValueError("checkpoint: expected no sizes and norms beside it, which has its own")
        if self.poolers != POOLERS:
            raise ValueError("poolers: expected none beside a checkpoint, which has its own")
        model = load_model(self.checkpoint)
        if isinstance(model, dict):
            if self.text:
                raise ValueError("text: expected none for blocks, which take token states")
            return self._show(self._of_blocks(model), len(model), f"Bounds of {self.checkpoint}")
        if isinstance(model, Head):
            self._refuse_inputs("a head, which has no bound at inputs")
            return self._show([self._of_head(model)], 1, f"Bounds of {self.checkpoint}")
        return self._of_backbone(model)

    def _refuse_inputs(self, subject: str):
        for name in ("text", "inputs"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: expected none beside {subject}")

    def _check(self):
        self.sizes.check()
        check_count("num_inputs", self.num_inputs)
        if self.text == ():
            raise ValueError("text: expected at least one behind --text, got none")
        if not self.poolers:
            raise ValueError("poolers: expected at least one, got none")
        if self.num_tokens is not None and len(self.num_tokens) not in (1, 2):
            raise ValueError(
                f"num_tokens: expected a number, or the lowest and highest, got {len(self.num_tokens)}"
            )
        for value in self.num_tokens or ():
            check_count("num_tokens", value)
        if self.cube is not None and (self.radius is not None or self.spread is not None):
            raise ValueError("cube: expected no radius or spread beside it, which it gives")
        if (self.epsilon is None) != (self.sigma is None):
            raise ValueError("epsilon, sigma: expected both or none, got one")
        if self.epsilon is not None:
            check_number("epsilon", self.epsilon, at_least=0.0)
            check_number("sigma", self.sigma or 0.0, above=0.0)

    def _tokens(self, known: int) -> TokenRange:
        numbers = (known,) if self.num_tokens is None else self.num_tokens
        return TokenRange(numbers[0], numbers[-1])

    def _domain(self, known: float, dim: int) -> Domain:
        if self.cube is not None:
            return bounds.cube(self.cube, dim)
        radius = known if self.radius is None else self.radius
        return Domain(radius, radius if self.spread is None else min(self.spread, radius))

    def _of_sizes(self) -> Iterator[dict[str, Any]]:
        num_tokens, domain = self._tokens(64), self._domain(1.0, self.sizes.dim)
        sizes = dataclasses.asdict(self.sizes)
        longest: Any = num_tokens.high
        poolers: list[Any] = [pooler_of(name, longest, self.sizes.dim) for name in self.poolers]
        for label, kind in self.sizes.kinds().items():
            model, variables = extremal_block(self.sizes, kind, poolers[0])
            pairs = ((pooler, initial_variables(pooler, longest, self.sizes.dim)) for pooler in poolers)
            found = pooler_bounds(model, variables, pairs, num_tokens, domain, geometry=self.geometry)
            for name, constants in zip(self.poolers, found, strict=True):
                row = {"attention": label, "pooler": name, **sizes}
                yield (
                    row
                    | describe_domain(num_tokens, domain, self.geometry)
                    | constant_fields(constants)
                )

    def _of_blocks(self, blocks: Blocks) -> Iterator[dict[str, Any]]:
        for name, block in blocks.items():
            row = {"checkpoint": name, **describe_block(block.model, block.variables)}
            num_tokens = self._tokens(block.config.get("num_tokens", 64))
            domain = self._domain(block.config.get("radius", 1.0), row["dim"])
            model, geometry = block.model, self.geometry
            found = block_bounds(model, block.variables, num_tokens, domain, geometry=geometry)
            row |= describe_domain(num_tokens, domain, geometry) | constant_fields(found)
            yield row | self._of_inputs(block)

    def _of_inputs(self, block: TrainedTBM) -> dict[str, Any]:
        """Bounds around the inputs that are given, or that the quickstart left beside its blocks."""
        path = self.inputs or inputs_beside(str(self.checkpoint), INPUTS)
        # Without a radius "poolax lipschitz" shows them, beside what is measured.
        if path is None or not (self.epsilon or self.inputs):
            return {}
        inputs, epsilon = jnp.asarray(read_array(str(path))[: self.num_inputs]), self.epsilon or 0.0
        if inputs.ndim != 3:
            raise ValueError(f"inputs: expected shape (N, n, d), got {inputs.shape}")
        at = {"epsilon": epsilon, "geometry": self.geometry}
        local = block_local(block.model, block.variables, inputs, **at)
        if local is None:
            return {}
        logs = [Constant(float(log)).log10 for log in np.log(np.asarray(local))]
        return describe_local(logs, self.inputs or "test inputs of the quickstart", epsilon)

    def _of_head(self, head: Head) -> dict[str, Any]:
        if head.joins_parts:
            raise ValueError(
                "checkpoint: expected a head of one sequence, got one of pairs, whose product has no "
                "Lipschitz constant"
            )
        dim = head.width
        num_tokens, domain = self._tokens(64), self._domain(1.0, dim)
        pooler: Any = head.pooler
        row = {"attention": "none", "pooler": to_config(pooler)["name"], "dim": dim}
        params = head.variables["params"]
        found = head_bounds(pooler, params, num_tokens, domain, geometry=self.geometry)
        return row | describe_domain(num_tokens, domain, self.geometry) | constant_fields(found)

    def _of_backbone(self, backbone: Backbone) -> int:
        with progress_bars(stderr()) as progress:
            inputs = read_inputs(backbone, self.text or (), self.inputs, self.num_inputs)
            embeddings, mask = backbone.embed(backbone.params, *backbone.prepare(inputs.raw))
            num_tokens, domain = embeddings_domain(embeddings, mask)
            shape = embeddings.shape[1:]
            if self.num_tokens is not None:
                num_tokens = self._tokens(0)
            if self.radius is not None or self.cube is not None:
                domain = self._domain(0.0, shape[-1])
            elif self.spread is not None:
                domain = Domain(domain.radius, min(self.spread, float(domain.radius)))
            progress = asking(progress)
            progress("ledger", 0, 1)
            ledgers = backbone_ledgers(backbone, num_tokens, domain, geometry=self.geometry)
            progress("ledger", 1, 1)
            around = {"geometry": self.geometry, "progress": progress}
            epsilon = self.epsilon or 0.0
            local = local_at_inputs(backbone, embeddings, mask, epsilon=epsilon, **around)
            # Of a deep model balls may have none; at the inputs alone there is one.
            if epsilon and not any(log is not None for logs in local for log in logs):
                epsilon = 0.0
                local = local_at_inputs(backbone, embeddings, mask, **around)
        layers = ledger_records(ledgers)
        sizes = pooled_sizes(backbone, shape, num_tokens)
        pooled = []
        for name, logs in zip(FIXED_POOLERS, local, strict=True):
            row = {"kind": "bounds", "backbone": self.checkpoint, "pooler": name, "dim": shape[-1]}
            row |= describe_local(logs, inputs.source, epsilon)
            row |= describe_domain(num_tokens, domain, self.geometry)
            found = pooled_ledgers(ledgers, from_name(name), *sizes, geometry=self.geometry)
            pooled.append(self._with_gamma(row | constant_fields(found)))
        given = self.num_tokens is not None or self.radius is not None or self.cube is not None
        source = "as given" if given else "as these inputs have"
        show(
            [
                pooled_table(pooled, f"Bounds of {self.checkpoint} by pooler", source),
                ledger_table(layers, "Its layers"),
            ],
            [*layers, *pooled],
            as_json=self.as_json,
        )
        return COMPLETE

    def _with_gamma(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.epsilon is None or self.sigma is None:
            return row
        return row | expressivity(row, self.epsilon, self.sigma)

    def _show(self, rows: Iterable[dict[str, Any]], total: int, title: str) -> int:
        records = []
        with progress_bars(stderr()) as progress:
            for row in rows:
                records.append(self._with_gamma({"kind": "bounds", **row}))
                asking(progress)("bounds", len(records), total)
        show([bounds_table(records, title)], records, as_json=self.as_json)
        return COMPLETE
