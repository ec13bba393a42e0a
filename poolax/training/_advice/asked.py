"""What is asked of an advice, whatever the data are."""

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath

from poolax._progress import Progress
from poolax.training._engine.limits import Limits
from poolax.training._sweep.readers import PoolerLike


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of an advice.

    Attributes:
        minutes: Time for all of it; ``None`` for as long as it takes.
        poolers: Names or poolers, or a mapping from labels to them; ``None`` for the usual ones.
        out: Folder for records and heads; ``None`` keeps nothing but what is returned.
        seed: Of everything random.
        limits: Memory, devices, checkpoints.
        progress: Called with a description, the number done and the total.
        name: What records call the model; ``None`` for the name of its checkpoint.
    """

    minutes: float | None
    poolers: Sequence[PoolerLike] | Mapping[str, PoolerLike] | None
    out: epath.PathLike | None
    seed: int
    limits: Limits
    progress: Progress
    name: str | None = None
