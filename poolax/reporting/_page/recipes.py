"""Which tables and figures show which kinds of records."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from poolax.reporting._bounds import bounds_table, ledger_table, pooled_table
from poolax.reporting._by_geometry import plot_bounds_by_geometry
from poolax.reporting._by_tokens import plot_bounds_by_tokens
from poolax.reporting._canvas import PathOrPaths
from poolax.reporting._claims.tables import claims_tables
from poolax.reporting._expressivity import expressivity_tables
from poolax.reporting._expressivity_figures import plot_noise, plot_sentences
from poolax.reporting._ladder import plot_sensitivity
from poolax.reporting._lengths import length_tables, plot_lengths
from poolax.reporting._noise_figures import plot_noise_curves
from poolax.reporting._optimisation import optimisation_tables, plot_training_curves
from poolax.reporting._page.grids import Grid, record_grid, score_grid
from poolax.reporting._page.sources import Row
from poolax.reporting._paper.beside import beside_paper
from poolax.reporting._paper.tables import paper_tables
from poolax.reporting._pretraining import plot_pretraining, plot_training_lipschitz
from poolax.reporting._radar import FEWEST_TASKS, plot_radar
from poolax.reporting._regularized import plot_regularized, regularized_table
from poolax.reporting._robustness import plot_robustness, robustness_tables
from poolax.reporting._score_figures import plot_scores
from poolax.reporting._score_tables import joined, notes_once, score_tables
from poolax.reporting._sizes import plot_sizes, size_tables
from poolax.reporting._table import Table
from poolax.reporting._tables import sensitivity_table
from poolax.reporting._weights import plot_weights, weight_tables

Plot = Callable[[Iterable[Row], PathOrPaths], None]
_BELOW = "the numbers stand in the tables beside it"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure that is drawn where there are records for it.

    Attributes:
        title: Above it.
        words: What it shows, for those who do not see it.
        plot: Draws records to a path.
        of: Which of a section's records it shows; no figure where there is none.
    """

    title: str
    words: str
    plot: Plot
    of: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a section is made.

    Attributes:
        title: Its heading.
        lead: What it shows, in a sentence.
        kinds: Kinds of records that it shows.
        tables: Makes its tables.
        figures: Its figures.
        of: Which of these records it shows; no section where there is none.
        grids: Makes its tables to sort and filter.
    """

    title: str
    lead: str
    kinds: tuple[str, ...]
    tables: Callable[[Sequence[Row]], Sequence[Table]] = lambda rows: ()
    figures: tuple[Figure, ...] = ()
    of: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows
    grids: Callable[[Sequence[Row]], Sequence[Grid]] = lambda rows: ()


def _kinds(*kinds: str) -> Callable[[Sequence[Row]], Sequence[Row]]:
    return lambda rows: [row for row in rows if row["kind"] in kinds]


def _whole(rows: Sequence[Row]) -> Sequence[Row]:
    """Heads of all training examples."""
    return [row for row in rows if "shots" not in row]


def _of_few(rows: Sequence[Row]) -> Sequence[Row]:
    """Heads of few examples, with those of all that were trained alike; none without few."""
    solved = [row for row in rows if row.get("solver")]
    return solved if any("shots" in row for row in solved) else []


def _of_a_radar(rows: Sequence[Row]) -> Sequence[Row]:
    sound = [row for row in rows if not row["diverged"]]
    tasks: dict[str, set] = {}
    for row in sound:
        model = str(row.get("model") or row.get("backbone"))
        tasks.setdefault(model, set()).add((row.get("dataset"), row["task"]))
    many = any(len(found) >= FEWEST_TASKS for found in tasks.values())
    return rows if many and not any("layers" in row for row in sound) else []


def _with_curves(rows: Sequence[Row]) -> Sequence[Row]:
    """All heads where any by Adam has a curve: the others are where curves end."""
    whole = _whole(rows)
    stepped = [row for row in whole if not row.get("solver")]
    return whole if any(row.get("validation_score") for row in stepped) else []


def _score_grids(rows: Sequence[Row]) -> list[Grid]:
    return [score_grid(joined(score_tables(rows)).tidy, "All scores")]


def _published(rows: Sequence[Row]) -> list[Table]:
    return paper_tables([one for one in beside_paper(rows) if one.is_matched])


def _bounds_tables(rows: Sequence[Row]) -> list[Table]:
    blocks = [row for row in rows if row["kind"] == "bounds" and row.get("attention")]
    pooled = [row for row in rows if row["kind"] == "bounds" and not row.get("attention")]
    layers = [row for row in rows if row["kind"] == "layer"]
    tables = [bounds_table(blocks, "Bounds of blocks and heads")] if blocks else []
    tables += [pooled_table(pooled, "Bounds of the whole by pooler")] if pooled else []
    return [*tables, *([ledger_table(layers, "Layers")] if layers else [])]


def _at_several_lengths(rows: Sequence[Row]) -> Sequence[Row]:
    """Bounds of blocks at two numbers of tokens or more; none at one."""
    blocks = [row for row in rows if row.get("attention")]
    return blocks if len({str(row["num_tokens"]) for row in blocks}) > 1 else []


def _losses(rows: Iterable[Row], path: PathOrPaths) -> None:
    plot_pretraining(_by_run(rows), path)


def _norms(rows: Iterable[Row], path: PathOrPaths) -> None:
    plot_training_lipschitz(_by_run(rows), path)


def _by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Records of each run, by its name where no other has the same."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    names = {row.get("name") or run: run for run, (row, *_) in runs.items()}
    return {name: runs[run] for name, run in names.items()} if len(names) == len(runs) else runs


def _with_norms(rows: Sequence[Row]) -> list[Row]:
    """Runs whose Lipschitz constants were looked at while they were trained."""
    found = {row["run"] for row in rows if "lipschitz" in (row.get("observed") or {})}
    return [row for row in rows if row["run"] in found]


def _by_size(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    """A row for each pooler and size of noise."""
    fields = ("epsilon", "mean", "low", "high")
    return [
        {"pooler": row["pooler"], **dict(zip(fields, values, strict=True))}
        for row in rows
        for values in zip(*(row[field] for field in fields), strict=True)
    ]


RECIPES: Sequence[Recipe] = (
    Recipe(
        "Scores",
        "Every pooler on every task, with what validation chose, how sure differences are, and "
        "predictions that do not look at the input.",
        ("head",),
        lambda rows: notes_once(score_tables(rows)),
        (
            Figure(
                "Test scores",
                f"Test score of each pooler with its 95 % interval, a panel for each task; {_BELOW}",
                plot_scores,
                lambda rows: [row for row in rows if not row["diverged"]],
            ),
            Figure(
                "Tasks at a glance",
                f"Radar of mean test scores, an axis for each task, outward is better; {_BELOW}",
                plot_radar,
                _of_a_radar,
            ),
        ),
        _whole,
        _score_grids,
    ),
    Recipe(
        "Beside the paper",
        "Values that the paper published for the same model and data.",
        ("head",),
        _published,
        of=_whole,
    ),
    Recipe(
        "Training",
        "How fast heads get where they get.",
        ("head",),
        optimisation_tables,
        (
            Figure(
                "Training curves",
                f"Validation score by epoch, a line for each pooler; {_BELOW}",
                plot_training_curves,
            ),
        ),
        _with_curves,
    ),
    Recipe(
        "Scores by the number of examples",
        "How many training examples each pooler needs.",
        ("head",),
        size_tables,
        (
            Figure(
                "Data sizes",
                f"Test score against the number of training examples, a line for each pooler; {_BELOW}",
                plot_sizes,
            ),
        ),
        _of_few,
    ),
    Recipe(
        "Scores by length",
        "What becomes of scores where inputs are cut, or longer than those that were learned from.",
        ("length_score",),
        length_tables,
        (
            Figure(
                "Scores by length",
                f"Test score against the number of tokens, a line for each pooler; {_BELOW}",
                plot_lengths,
            ),
        ),
    ),
    Recipe(
        "Noise and changed sentences",
        "How far noise moves pooled vectors, and how well these tell changed meanings apart.",
        ("noise_curve", "noise_constants", "sentence_distances"),
        expressivity_tables,
        (
            Figure(
                "Noise",
                "Mean distance of pooled vectors against the size of noise with its band, a line "
                f"for each pooler, and slopes beside bounds; {_BELOW}",
                plot_noise,
                _kinds("noise_curve", "noise_constants"),
            ),
            Figure(
                "Changed sentences",
                f"How far similar and other sentences move, by pooler and kind of change; {_BELOW}",
                plot_sentences,
                _kinds("sentence_distances"),
            ),
        ),
        lambda rows: [row for row in rows if row["kind"] != "noise_curve" or row.get("model")],
    ),
    Recipe(
        "Noise",
        "How far noise on the input moves pooled vectors.",
        ("noise_curve",),
        figures=(
            Figure(
                "Noise curves",
                "Mean distance of pooled vectors against the size of noise on the input, a line for "
                f"each pooler with the band of its interval, logarithmic axes; {_BELOW}",
                plot_noise_curves,
            ),
        ),
        of=lambda rows: [row for row in rows if not row.get("model")],
        grids=lambda rows: [record_grid(_by_size(rows), "Distances by size of noise")],
    ),
    Recipe(
        "Lipschitz constants",
        "What was measured, beside bounds from the narrowest to the published one.",
        ("lipschitz", "lipschitz_at_inputs"),
        lambda rows: [sensitivity_table(rows, title="Measured and bounded")],
        (
            Figure(
                "Measured constants and bounds",
                "Lipschitz constants of each pooler on a logarithmic axis: at inputs, found by search, "
                "and local, tight, sharp and published bounds, a panel for each kind of attention; "
                f"{_BELOW}",
                plot_sensitivity,
            ),
        ),
    ),
    Recipe(
        "Bounds",
        "How far a change of the input can move the pooled vector, at most.",
        ("bounds", "layer"),
        _bounds_tables,
    ),
    Recipe(
        "Bounds by the number of tokens",
        "Which bounds grow with the number of tokens, and which fall.",
        ("bounds", "bounds_lengths"),
        figures=(
            Figure(
                "Bounds against the number of tokens",
                "Published, sharp and tight bounds against the number of tokens on logarithmic axes, "
                f"and what a search finds, a panel for each kind of attention and pooler; {_BELOW}",
                plot_bounds_by_tokens,
            ),
        ),
        of=_at_several_lengths,
        grids=lambda rows: [record_grid(rows, "Bounds by the number of tokens")],
    ),
    Recipe(
        "Bounds by the budget of a change",
        "How far pooled vectors move where all tokens share a budget, and where each has its own.",
        ("bounds_geometry",),
        figures=(
            Figure(
                "Bounds by the budget of a change",
                "Lipschitz constants of each pooler on a logarithmic axis, found by a search and "
                "bounded, a row of panels for a budget that all tokens share and one for a budget of "
                f"each token; {_BELOW}",
                plot_bounds_by_geometry,
            ),
        ),
        grids=lambda rows: [record_grid(rows, "Bounds by the budget of a change")],
    ),
    Recipe(
        "Attacks",
        "What attacks on pixels leave of a classification.",
        ("robustness",),
        robustness_tables,
        (
            Figure(
                "Accuracy under attack",
                f"Accuracy against the budget of attacks, a colour for each pooler; {_BELOW}",
                plot_robustness,
            ),
        ),
    ),
    Recipe(
        "Learned weights",
        "What a weighted average has learned: whose vectors its own are like, and its weights.",
        ("agreement", "position_weights"),
        weight_tables,
        (
            Figure(
                "Weights by position",
                "Cosines with the vectors of other poolers, and learned weights by position, a line "
                f"for each seed; {_BELOW}",
                plot_weights,
            ),
        ),
    ),
    Recipe(
        "Training for certificates",
        "What bounds in the loss, caps and margins do to accuracy, constants and what is certified.",
        ("regularize",),
        lambda rows: [regularized_table(rows)],
        (
            Figure(
                "Certified accuracy by radius",
                "Share of images that are certified, solid, and that an attack leaves, dashed, against "
                "the radius, a panel for each kind of attention, a colour for each way of training; "
                f"{_BELOW}",
                plot_regularized,
            ),
        ),
    ),
    Recipe("Claims", "What becomes of the paper's claims.", ("claim",), claims_tables),
    Recipe(
        "Pretraining",
        "Losses of pretraining by step.",
        ("pretraining",),
        figures=(
            Figure(
                "Losses",
                "Loss of training by step as a line, of what is held out as points, for each run; "
                f"{_BELOW}",
                _losses,
            ),
            Figure(
                "Lipschitz constants over training",
                "Largest measured norm of each run by step, and its local and tight bounds; the "
                "numbers stand in the records",
                _norms,
                _with_norms,
            ),
        ),
        grids=lambda rows: [record_grid(rows, "Losses by step")],
    ),
)
