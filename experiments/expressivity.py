"""How far noise and changed sentences move pooled vectors (Figures 2 and 4, both halves).

    python experiments/expressivity.py --datasets banking77 cifar10 swedish_leaf --data-dir DIR
    python experiments/expressivity.py --backbone minilm SMOLLM2 DINOV2 runs/moment-0/backbone \
        --datasets banking77 cifar10 swedish_leaf --data-dir DIR
    python experiments/expressivity.py --sentences groups.csv    # of your own: group, role, kind, text
    python experiments/expressivity.py --quick

First half: Gaussian noise on the inputs (pixels, steps, embeddings of texts), and how far the vectors
of each pooler move, beside the local constant measured there and its bounds. Second half, for models
of texts: sentences beside others that mean the same and others that do not (sentences.tsv, 44 groups
by kind of change), and how well cosines of pooled vectors tell these apart. Poolers with parameters are
those of heads that are trained by the paper's protocol first. The paper reports that sum moves most and
average least in all modalities, and that similar sentences move less than dissimilar ones, which
expansive poolers separate more. Records, tables and figures stand in --out; the same command goes on
from what is finished.

Duration (estimate, two CPU cores): some minutes for MiniLM, half an hour with all four
models; --quick a minute, without constants.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("expressivity")

import dataclasses
import functools
import pathlib
import sys
from typing import Annotated

import comparison
import jax.numpy as jnp
import numpy as np
import probing
import rich.console
import sentence_groups
import tyro
from etils import epath
from expressivity_noise import constants_of, curves_of, inputs_of

from poolax.cli import OptionalCount, OptionalPath, check_count, tell
from poolax.pooling import FIXED_POOLERS
from poolax.records import Journal, Records, fingerprint, packed
from poolax.reporting import expressivity_tables, plot_noise, plot_sentences
from poolax.training import head_directory, load_head

#: Names of fixed poolers as records resolve them, whose bounds are known.
BOUNDED = FIXED_POOLERS
SENTENCES_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Options(probing.Options):
    """Measure how far noise and changed sentences move pooled vectors.

    Attributes:
        sentences: File of groups of sentences of your own (CSV, TSV or JSON lines with group, role,
            kind and text); by default the 44 groups of sentences.tsv.
        num_inputs: Test examples that noise is added to.
        num_perturbations: Draws of the noise for each of them.
        num_bounded: Of these examples those at which constants are measured and bounded.
        noise: Sizes of the noise, as shares of the mean norm of the inputs, ascending.
    """

    out: str = "poolax-expressivity"
    datasets: tuple[str, ...] = ("topics",)
    solvers: comparison.Solvers = ("adam",)
    seeds: int = 3
    num_examples: Annotated[OptionalCount, tyro.conf.arg(aliases=["--limit"])] = 500
    sentences: OptionalPath = None
    num_inputs: int = 16
    num_perturbations: int = 8
    num_bounded: int = 4
    noise: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        check_count("num_inputs", self.num_inputs, at_least=2)
        check_count("num_perturbations", self.num_perturbations)
        check_count("num_bounded", self.num_bounded, at_least=0)
        shares = self.noise
        if not shares or any(b <= a for a, b in zip((0.0, *shares), shares, strict=False)):
            raise ValueError(f"noise: expected shares above 0, ascending, got {shares}")
        if self.solvers != ("adam",):
            raise ValueError(f"solvers: expected adam alone, got {', '.join(self.solvers)}")
        groups_of(self)


def groups_of(options):
    """The groups of sentences, and what they are called."""
    if options.sentences is None:
        return sentence_groups.read(sentence_groups.BUILT_IN), sentence_groups.BUILT_IN.stem
    path = pathlib.Path(options.sentences).expanduser()
    return sentence_groups.read(path), path.stem


def measure_all(options, out, progress, limits):
    """Curves, constants and distances of all backbones."""
    options = with_present(options)
    groups, name = groups_of(options)
    folder = out / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    rows, seen = [], set()
    for setup in probing.setups(options, out, progress):
        heads = heads_of(setup, options, out, progress, limits)
        rows += noise_rows(setup, heads, options, journal, progress)
        told = fingerprint(setup.backbone.params, setup.backbone.config)
        # Of several data sets of texts the heads of the first.
        if setup.backbone.modality == "language" and told not in seen:
            seen.add(told)
            rows += sentence_rows(setup, heads, groups, name, journal, progress)
    return Records(rows)


def with_present(options):
    """The options without backbones that are not there, which are told in a line each."""
    present = []
    for path in options.backbone:
        try:
            comparison.loaded(path)
        except ValueError as error:
            tell(rich.console.Console(file=sys.stderr), f"{comparison.name_of(path)} left out: {error}")
        else:
            present.append(path)
    if options.backbone and not present:
        raise ValueError("backbone: expected at least one that can be loaded, got none")
    return dataclasses.replace(options, backbone=tuple(present))


def heads_of(setup, options, out, progress, limits):
    """Trained heads with their records, by seed and pooler."""
    records = probing.trained(setup, options, out, progress, limits)
    found = {}
    for row in records.where(diverged=False):
        head = load_head(head_directory(out, row))
        found.setdefault(row["seed"], {})[row["pooler"]] = (row, head)
    return found


def noise_rows(setup, heads, options, journal, progress):
    """Curves of every seed and pooler, and the constants of the fixed poolers."""
    given = inputs_of(setup, options.num_inputs)
    about = {"model": setup.model, "dataset": setup.data.name, "task": "noise"}
    about |= {"pretrained": setup.pretrained, "of": "embeddings" if given.embedded else "inputs"}
    rows = []
    for seed, own in heads.items():
        curves = functools.cache(lambda seed=seed, own=own: curves_of(given, own, seed, options))
        for name, (row, _) in own.items():
            what = {"kind": "noise_curve", **about, "pooler": name, "seed": seed, "head": row["id"]}
            what |= {"resolved": row["resolved"]["name"], "num_inputs": len(given.inputs)}
            what |= {"relative": list(options.noise), "perturbations": options.num_perturbations}
            rows.append(journal.measured(what, lambda name=name, curves=curves: curves()[name]))
        progress(f"{setup.model}: noise curves", len(rows), len(heads) * len(own))
    known = {name: row["resolved"]["name"] for name, (row, _) in next(iter(heads.values())).items()}
    bounded = {name: fixed for name, fixed in known.items() if fixed in BOUNDED}
    if bounded and options.num_bounded:
        number = min(options.num_bounded, len(given.inputs))
        constants = functools.cache(lambda: constants_of(given, bounded, number, progress))
        ids = {name: row["id"] for name, (row, _) in next(iter(heads.values())).items()}
        for name in bounded:
            what = {"kind": "noise_constants", **about, "pooler": name, "head": ids[name]}
            what["num_inputs"] = number
            rows.append(journal.measured(what, lambda name=name: constants()[name]))
    return rows


def sentence_rows(setup, heads, groups, name, journal, progress):
    """How far changed sentences are from what they were made of, by seed and pooler."""
    backbone = cut_for(setup.backbone, heads)
    texts = tuple(
        text for group in groups for text in (group.base, *(one.text for one in group.variants))
    )
    kinds = list(dict.fromkeys(one.kind for group in groups for one in group.variants))
    about = {"model": setup.model, "dataset": name, "task": "sentences"}
    about |= {"pretrained": setup.pretrained, "texts": fingerprint(texts)}

    def vectors(own):
        parts = []
        for start in range(0, len(texts), SENTENCES_AT_ONCE):
            tokens = states(texts[start : start + SENTENCES_AT_ONCE])
            parts.append({one: np.asarray(head.pool(*tokens)) for one, (_, head) in own.items()})
            progress(f"{setup.model}: sentences", start, len(texts))
        return {one: np.concatenate([part[one] for part in parts]) for one in own}

    @functools.cache
    def states(some):
        ids, mask = backbone.prepare(list(some))  # once for the heads of all seeds
        tokens = backbone(jnp.asarray(ids), jnp.asarray(mask))
        return tokens.states, tokens.mask

    rows = []
    for seed, own in heads.items():
        found = functools.cache(lambda own=own: vectors(own))
        for pooler, (row, _) in own.items():
            what = {"kind": "sentence_distances", **about, "pooler": pooler, "seed": seed}
            what |= {"head": row["id"], "resolved": row["resolved"]["name"], "num_groups": len(groups)}
            what["kinds"] = kinds
            rows.append(
                journal.measured(
                    what,
                    lambda pooler=pooler, found=found: {
                        "variants": packed(distances(found()[pooler], groups, kinds))
                    },
                )
            )
    return rows


def cut_for(backbone, heads):
    """The backbone with texts cut to as many tokens as all poolers have seen."""
    poolers = [head.pooler for own in heads.values() for _, head in own.values()]
    seen = [pooler.max_tokens for pooler in poolers if getattr(pooler, "max_tokens", None)]
    if not seen or min(seen) >= backbone.preprocess.max_tokens:
        return backbone
    return dataclasses.replace(backbone, preprocess=backbone.preprocess.cut_to(min(seen)))


def distances(vectors, groups, kinds):
    """Of each variant its group, kind and role, and how far its vector is from that of the sentence."""
    found = {name: [] for name in ("group", "kind", "similar", "cosine", "distance")}
    place = 0
    for index, group in enumerate(groups):
        base, place = vectors[place], place + 1
        for one in group.variants:
            own, place = vectors[place], place + 1
            norms = np.linalg.norm(base) * np.linalg.norm(own)
            found["group"].append(index)
            found["kind"].append(kinds.index(one.kind))
            found["similar"].append(int(one.similar))
            found["cosine"].append(float(base @ own / max(norms, np.finfo(np.float32).tiny)))
            found["distance"].append(float(np.linalg.norm(own - base)))
    whole = {name: np.array(found.pop(name)) for name in ("group", "kind", "similar")}
    return whole | {name: np.array(values, np.float32) for name, values in found.items()}


def _if_any(kind, draw):
    """Draw a figure where there are records of a kind."""

    def drawn(records: Records, path: epath.Path) -> None:
        if len(records.where(kind=kind)):
            draw(records, path)

    return drawn


SCRIPT = probing.Script(
    name="expressivity",
    title="How far noise and changed sentences move pooled vectors",
    options=Options(),
    measure=measure_all,
    tables=expressivity_tables,
    figures={
        "noise": _if_any("noise_curve", plot_noise),
        "sentences": _if_any("sentence_distances", plot_sentences),
    },
    quick={
        **probing.QUICK,
        "num_examples": 40,
        "seeds": 1,
        "max_tokens": 32,
        "num_inputs": 4,
        "num_perturbations": 2,
        "num_bounded": 0,  # of which compiling alone takes half a minute
        "noise": (0.01, 0.1, 1.0),
    },
)

if __name__ == "__main__":
    sys.exit(probing.main(SCRIPT))
