"""Records of regularize.py."""

from typing import NotRequired, TypedDict

from poolax.records import record_kind


@record_kind("regularize")
class Regularized(TypedDict):
    """One pooler, kind of attention and way of training, with a number for each seed.

    Beside the settings of the way stand all that were tried with the first seed: those whose
    ``validation_radius`` is largest were taken. Older records have neither these nor the learning rate.

    Radii are in grey levels: by the bound of all images those of all test images have a median, those
    by bounds around an image stand for each of the first test images; ``None`` where no attack
    succeeded.
    """

    pooler: str
    attention: str
    way: str
    learning_rate: NotRequired[float]
    strength: float
    cap: float | None
    margin: float
    tried: NotRequired[list[dict[str, float | None]]]
    accuracy: list[float]
    validation_accuracy: list[float]
    measured_real: list[float]
    measured_adversarial: list[float]
    sharp: list[float]
    median_radius: list[float]
    share_certified: list[float]
    certified: list[list[float]]
    attacked: list[list[float | None]]
