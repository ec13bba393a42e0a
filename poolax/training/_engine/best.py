"""The best state of every run by validation, and when each has nothing left to gain."""

import dataclasses

import jax
import numpy as np
import optax
from jaxtyping import Float, PyTree


@dataclasses.dataclass(frozen=True)
class Until:
    """Training until validation no longer improves: warm-up, then cosine decay over all epochs.

    Attributes:
        patience: Epochs after which a run stops if neither validation score nor loss became better.
        warmup: Share of all steps over which the learning rate rises to its largest.
    """

    patience: int
    warmup: float

    def optimizer(self, num_steps: int) -> optax.GradientTransformation:
        """Adam along the schedule of so many steps; its learning rate is the largest one."""
        warmup = max(1, round(self.warmup * num_steps))
        shape = optax.warmup_cosine_decay_schedule(1 / warmup, 1.0, warmup, max(num_steps, warmup + 1))

        def adam(learning_rate):
            return optax.chain(optax.adam(learning_rate), optax.scale_by_schedule(shape))

        return optax.inject_hyperparams(adam)(learning_rate=0.0)


class Best:
    """The best state of runs of one structure, whatever the others of them do.

    A run that has stopped stays as it was then, so that it comes out the same alone and beside others.

    Args:
        params: Parameters with leading axes (group, run).
        until: When a run stops.
        higher_is_better: Whether a larger validation score is better.
    """

    def __init__(self, params: PyTree, until: Until, *, higher_is_better: bool):
        self.params = params
        self._patience, self._sign = until.patience, 1 if higher_is_better else -1
        shape = jax.tree.leaves(params)[0].shape[:2]
        self._score, self._loss = np.full(shape, -np.inf), np.full(shape, np.inf)
        self.epoch, self._gained = np.full(shape, -1), np.full(shape, -1)
        self.num_epochs = np.zeros(shape, np.int64)

    def see(
        self,
        epoch: int,
        params: PyTree,
        scores: Float[np.ndarray, "group run"],
        losses: Float[np.ndarray, "group run"],
    ) -> None:
        """Take the state after an epoch over for those runs whose validation score it is best for."""
        runs = ~self.stopped
        signed = self._sign * np.asarray(scores)
        better = runs & (signed > self._score)
        # A score of few examples stands still for a while where a loss does not.
        gains = better | (runs & (losses < self._loss))
        self._score = np.where(better, signed, self._score)
        self._loss = np.where(gains, np.fmin(losses, self._loss), self._loss)
        self._gained = np.where(gains, epoch, self._gained)
        self.epoch = np.where(better, epoch, self.epoch)
        self.num_epochs = np.where(runs, epoch + 1, self.num_epochs)

        def chosen(new, old):
            return np.where(better.reshape(better.shape + (1,) * (new.ndim - 2)), new, old)

        self.params = jax.tree.map(chosen, params, self.params)

    @property
    def stopped(self) -> np.ndarray:
        """Which runs have stopped, shape (group, run)."""
        return self.num_epochs - 1 - self._gained >= self._patience

    def keep(self) -> PyTree:
        """All that another one needs to go on."""
        return {
            "params": self.params,
            "score": self._score,
            "loss": self._loss,
            "epoch": self.epoch,
            "gained": self._gained,
            "num_epochs": self.num_epochs,
        }

    def resume(self, tree: PyTree) -> None:
        """Go on from what another one kept."""
        self.params = tree["params"]
        self._score, self._loss = tree["score"], tree["loss"]
        self.epoch, self._gained = tree["epoch"], tree["gained"]
        self.num_epochs = tree["num_epochs"]
