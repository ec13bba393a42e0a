"""How well pooled vectors tell changed meanings from changed words, from records of sentences."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from poolax.records import unpacked
from poolax.statistics import Resampled, resample

#: All changes together, in place of the name of a kind.
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Variants:
    """Changed sentences of one pooler and seed.

    Attributes:
        group: Group of each.
        kind: Kind of change of each, a number of ``kinds``.
        similar: Whether the meaning stays.
        cosine: Of its vector with that of the sentence that it is made of.
        distance: Of these two vectors.
        kinds: Names of the kinds.
        num_groups: Number of groups.
    """

    group: np.ndarray
    kind: np.ndarray
    similar: Bool[np.ndarray, " V"]
    cosine: Float[np.ndarray, " V"]
    distance: Float[np.ndarray, " V"]
    kinds: Sequence[str]
    num_groups: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Variants":
        """What a record of kind ``"sentence_distances"`` holds."""
        arrays, _ = unpacked(row["variants"])
        similar = arrays.pop("similar").astype(bool)
        floats = {name: arrays.pop(name).astype(np.float64) for name in ("cosine", "distance")}
        return cls(
            **arrays, similar=similar, **floats, kinds=row["kinds"], num_groups=row["num_groups"]
        )

    def kinds_by_role(self) -> dict[str, bool]:
        """Names of the kinds, those that keep the meaning first, and whether they do."""
        found = {
            self.kinds[int(kind)]: bool(self.similar[self.kind == kind][0]) for kind in set(self.kind)
        }
        return dict(sorted(found.items(), key=lambda item: (not item[1], self.kinds.index(item[0]))))

    def auc(self, kind: str = ALL) -> Float[np.ndarray, " G"]:
        """Of each group the share of pairs in which the similar one has the greater cosine.

        Args:
            kind: Of the one of the pair whose role it has; ``"all"`` for all.

        Returns:
            Shares, one half for equal cosines; NaN for a group without such a pair.
        """
        chosen = self.chosen(kind)
        shares = np.full(self.num_groups, np.nan)
        for group in range(self.num_groups):
            own = chosen & (self.group == group)
            near, far = self.cosine[own & self.similar], self.cosine[own & ~self.similar]
            if near.size and far.size:
                shares[group] = np.mean(np.sign(near[:, None] - far) / 2 + 0.5)
        return shares

    def gap(self) -> Float[np.ndarray, " G"]:
        """Of each group the mean cosine of similar ones less that of the others."""
        return self.means(self.cosine, similar=True) - self.means(self.cosine, similar=False)

    def further(self) -> Float[np.ndarray, " G"]:
        """Of each group how much further the others move than similar ones, by the mean of both."""
        near, far = self.moved()
        return far - near

    def moved(self) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
        """Of each group mean distances of similar and other ones, by the mean of both; 1 for none."""
        near, far = (self.means(self.distance, similar=similar) for similar in (True, False))
        is_still = near + far == 0
        both = np.where(is_still, 1.0, near + far)
        return np.where(is_still, 1.0, 2 * near / both), np.where(is_still, 1.0, 2 * far / both)

    def means(self, values: Float[np.ndarray, " V"], *, similar: bool) -> Float[np.ndarray, " G"]:
        """Mean of the values of each group over those of a role; NaN where there is none."""
        found = np.full(self.num_groups, np.nan)
        for group in range(self.num_groups):
            own = values[(self.group == group) & (self.similar == similar)]
            if own.size:
                found[group] = own.mean()
        return found

    def chosen(self, kind: str) -> Bool[np.ndarray, " V"]:
        """Variants of a kind, and all of the other role."""
        if kind == ALL:
            return np.ones(len(self.group), bool)
        of_kind = self.kind == self.kinds.index(kind)
        return of_kind | (self.similar != self.similar[of_kind][0])


def by_model(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, list[Variants]]]:
    """Of each model and file of sentences the variants by pooler, one for each seed."""
    found: dict[tuple[str, str], dict[str, list[Variants]]] = {}
    for row in records:
        if row.get("kind") == "sentence_distances":
            own = found.setdefault((row["model"], row["dataset"]), {})
            own.setdefault(row["pooler"], []).append(Variants.of(row))
    return found


def resampled(scores: Mapping[str, Sequence[Float[np.ndarray, " G"]]]) -> Resampled:
    """Means over groups and seeds by pooler, by the paired bootstrap of groups and then seeds.

    Args:
        scores: Of each pooler the scores of all groups, one row for each seed; NaN where there is none.

    Raises:
        ValueError: where no group has scores.
    """
    rows = {name: np.stack(own) for name, own in scores.items()}
    known = ~np.isnan(np.concatenate(list(rows.values()))).any(axis=0)
    if not known.any():
        raise ValueError("records: expected groups of similar and dissimilar sentences, got none")
    return resample({name: own[:, known] for name, own in rows.items()})
