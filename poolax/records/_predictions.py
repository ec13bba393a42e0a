"""What heads predict of each example, kept with their records."""

import base64
import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

# Several numbers an example are kept up to so many in all; one number an example always.
MOST_NUMBERS = 2**14
_SPLITS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What one head predicts of the examples of a split, in the order of the split.

    Attributes:
        kept: Arrays by name, one row an example. ``score`` is always among them, one number an example
            (for a classification 1 where it is right). Where they are small enough there are ``target``
            and ``prediction``; of classifications ``log_probability`` of each class and ``confidence``
            in the predicted one, in half precision; of errors that are means over several values of
            an example ``absolute_error`` and ``num_scored``, how many these are.
        left_out: Names of what is not kept, with the reason.
        pooler: Label of the head's pooler.
        seed: Seed of the head.
        metric: The metric that its task reports first.
        value: That metric over the examples, as the record has it; ``None`` where it is not finite.
        higher_is_better: Whether a larger value of it is better.
        split: ``"validation"`` or ``"test"``.
        id: What the head is known by.

    Example:
        >>> found = Predictions({"score": np.array([1.0, 0.0]), "target": np.array([3, 1])})
        >>> found.target, len(found)
        (array([3, 1]), 2)
        >>> found.prediction
        Traceback (most recent call last):
        ...
        ValueError: prediction: expected one that was kept, got none
    """

    kept: Mapping[str, np.ndarray]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pooler: str = ""
    seed: int = 0
    metric: str = "score"
    value: float | None = None
    higher_is_better: bool = True
    split: str = "test"
    id: str = ""

    def __post_init__(self):
        """Refuse arrays that are not one row an example."""
        if "score" not in self.kept:
            raise ValueError(f"kept: expected score among the arrays, got {', '.join(self.kept)}")
        sizes = {name: len(array) for name, array in self.kept.items()}
        if len(set(sizes.values())) > 1 or np.ndim(self.kept["score"]) != 1:
            raise ValueError(f"kept: expected one row an example in each array, got {sizes}")

    def __len__(self):
        return len(self.kept["score"])

    def __getitem__(self, name: str) -> np.ndarray:
        """An array by its name.

        Raises:
            ValueError: if it was not kept.
        """
        if name not in self.kept:
            why = self.left_out.get(name)
            raise ValueError(
                f"{name}: expected one that was kept, got none" + (f": {why}" if why else "")
            )
        return self.kept[name]

    @property
    def score(self) -> Float[np.ndarray, " N"]:
        """One number for each example, as its record's ``test_scores``; NaN where nothing is scored."""
        return self["score"]

    @property
    def target(self) -> np.ndarray:
        """What should have been predicted."""
        return self["target"]

    @property
    def prediction(self) -> np.ndarray:
        """What was predicted."""
        return self["prediction"]


def packed(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as plain JSON: their bytes, compressed, in base 64; whole numbers in as few as they need.

    Args:
        arrays: One row an example.

    Returns:
        For each array dtype, shape and data; of one that is too large what is ``left_out``.

    Example:
        >>> kept = packed({"target": np.array([3, 1])})
        >>> kept["target"]["dtype"], unpacked(kept)[0]["target"]
        ('|u1', array([3, 1]))
    """
    found: dict[str, Any] = {}
    for name, array in sorted(arrays.items()):
        array = np.asarray(array)
        if array.ndim > 1 and array.size > MOST_NUMBERS:
            found[name] = {
                "left_out": f"{array[0].size} numbers for each of {len(array)} examples are more than "
                f"the {MOST_NUMBERS} that are kept"
            }
            continue
        array = _narrowed(array)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
        found[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}
    return found


def unpacked(kept: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of :func:`packed`, and why others are left out.

    Raises:
        ValueError: for anything else.
    """
    arrays, left_out = {}, {}
    for name, part in kept.items():
        try:
            if "left_out" in part:
                left_out[name] = str(part["left_out"])
                continue
            data = zlib.decompress(base64.b64decode(part["data"], validate=True))
            array = np.frombuffer(data, np.dtype(part["dtype"])).reshape(part["shape"])
            # Differences of the types that whole numbers are kept in would wrap around.
            is_whole = np.issubdtype(array.dtype, np.integer)
            arrays[name] = array.astype(np.int64) if is_whole else array
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            raise ValueError(
                f"predictions: expected dtype, shape and data of {name!r}, got {error}"
            ) from None
    return arrays, left_out


def _narrowed(array):
    """Whole numbers in the least type that holds them."""
    if not np.issubdtype(array.dtype, np.integer) or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    return array.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))


def predictions_of(row: Mapping[str, Any], split: str = "test") -> Predictions:
    """What the head of a record predicts.

    Args:
        row: The record of a head.
        split: ``"validation"`` or ``"test"``.

    Returns:
        The predictions.

    Raises:
        ValueError: for a record that holds none.
    """
    if split not in _SPLITS:
        raise ValueError(f"split: expected {' or '.join(map(repr, _SPLITS))}, got {split!r}")
    kept = row.get("predictions")
    if not isinstance(kept, Mapping) or split not in kept:
        what = f"head {row['id']}" if "id" in row else f"a record of kind {row.get('kind')!r}"
        why = "the version that wrote the record did not keep them; the same sweep in a new folder does"
        if isinstance(kept, Mapping):
            why = f"it was trained on the {split} split as well"
        raise ValueError(f"records: expected the predictions of {what}, got none: {why}")
    arrays, left_out = unpacked(kept[split])
    if "score" not in arrays:
        arrays["score"] = np.array(row["test_scores"], np.float64)
    return Predictions(
        arrays,
        left_out,
        pooler=row["pooler"],
        seed=row["seed"],
        metric=row["metric"],
        value=row[split],
        higher_is_better=row["higher_is_better"],
        split=split,
        id=row["id"],
    )
