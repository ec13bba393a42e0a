"""Which pooler finished heads speak for."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from poolax import statistics
from poolax.records import Records
from poolax.training._advice import evidence
from poolax.training._advice.choice import Choice, choose
from poolax.training._advice.heads import Trained
from poolax.training._engine.heads import Head


def choose_pooler(
    records: Records,
    heads: Mapping[str, Head],
    states: Float[np.ndarray, "N n d"],
    mask: Bool[np.ndarray, "N n"] | None = None,
    *,
    seed: int = 0,
) -> Choice:
    """Which pooler finished heads speak for, chosen as by :func:`advise_states`; nothing is trained.

    Args:
        records: Of heads of one data set and task, of one learning rate a seed or of several.
        heads: One of each pooler, which says what that costs.
        states: Token states of some examples, at whose lengths and spread Lipschitz factors are taken.
        mask: True at real tokens; ``None`` if all are real.
        seed: Of the bootstrap.

    Returns:
        The choice, with its ``sentence`` and its ``certainty``.

    Raises:
        ValueError: for no records, those of several data sets or tasks, or a pooler without a head.

    Example:
        >>> import tempfile
        >>> from poolax.training import Classification, head_directory, load_head, sweep_states
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(0, 2, 400)
        >>> states = rng.normal(size=(400, 6, 8)).astype(np.float32)
        >>> states[:, -1, 0] += 4 * labels  # the last token knows
        >>> parts = np.split(np.arange(400), [200, 280])
        >>> splits = dict(zip(("train", "validation", "test"), parts))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     records = sweep_states(
        ...         states, None, labels, Classification(2), splits=splits,
        ...         poolers=["avg", "last"], solver="converged", out=out,
        ...     )
        ...     heads = {row["pooler"]: load_head(head_directory(out, row)) for row in records}
        >>> choose_pooler(records, heads, states[:64]).sentence
        'Take last: better beyond noise than every other pooler.'
    """
    found = {(row.get("dataset"), row["task"]) for row in records}
    if len(found) != 1:
        raise ValueError(f"records: expected those of one data set and task, got {len(found)}")
    trained, seeds = Trained(), {}
    for row in records:
        seeds.setdefault(row["pooler"], {}).setdefault(row["seed"], []).append(row)
    missing = [name for name in seeds if name not in heads]
    if missing:
        raise ValueError(f"heads: expected one of {missing[0]}, got none")
    for name, rows in seeds.items():
        trained.add(name, rows, 0.0)
    tokens = evidence.Tokens.of(np.asarray(states), mask, np.arange(len(states)))
    prices = {name: evidence.price(heads[name], tokens) for name in seeds}
    scores = statistics.resample(trained.predictions("test"), seed=seed)
    return choose({name: trained.validation(name) for name in seeds}, scores, prices)
