"""Several processes that pretrain together."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def join(told: Sequence[str]) -> None:
    """Join the other processes of a run; to be called before JAX is used for the first time.

    Args:
        told: Nothing for a process alone, ``"auto"``, or address, number of processes and own number.

    Raises:
        ValueError: for anything else.
    """
    match list(told):
        case []:
            return
        case ["auto"]:
            jax.distributed.initialize()
        case [address, number, own] if number.isdecimal() and own.isdecimal():
            jax.distributed.initialize(address, int(number), int(own))
        case _:
            raise ValueError(
                "distributed: expected auto, or HOST:PORT, the number of processes and that of this "
                f"one, got {' '.join(told)!r}"
            )


def is_so(found: bool) -> bool:
    """What the first process found, on all of them, so that all do the same. Every process has to call.

    Args:
        found: What this one found.
    """
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(found)))
