"""Records of a run of pretraining, by step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from poolax.records import Records, as_written, digest, environment
from poolax.training.pretraining._rate import matrix_rate, matrix_work

RECORDS = "records.jsonl"
_SINCE = "since_record"


@dataclasses.dataclass
class Since:
    """Sums since the last record, in double precision and the order of the steps.

    Attributes:
        loss: Sum of losses.
        weight: Sum of weights.
        gradient_norm: Sum of the norms of gradients.
        steps: Number of steps.
    """

    loss: float = 0.0
    weight: float = 0.0
    gradient_norm: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Since":
        """As a checkpoint has them; those of earlier versions have none."""
        return cls(**metadata.get(_SINCE, {}))

    def plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {_SINCE: dataclasses.asdict(self)}


class Notes:
    """Adds up what steps give, and writes records of it.

    Args:
        run: The :class:`Run`.
        since: Sums since the last record.
        num_rows: Rows of a batch.
    """

    def __init__(self, run: Any, since: Since, num_rows: int):
        self._run, self.since, self._num_rows = run, since, num_rows
        plan = run.plan
        every = plan.record_every or max(1, plan.steps // 100)
        self.record_every = every if run.takes_notes else None
        self._rates = plan.optimisation.rates(plan.steps)
        self._run_id = digest(run.metadata)
        self._rows: list[dict[str, Any]] = []
        self._seconds, self._timed, self._calls = 0.0, 0, 0
        self._work: int | None = None

    def add(self, found: Any, count: int, seconds: float) -> None:
        """Add up the steps of a call; the first one compiled a program, and its time tells nothing."""
        since = self.since
        for number in range(count):
            since.loss += float(found.loss[number])
            since.weight += float(found.weight[number])
            since.gradient_norm += float(found.gradient_norm[number])
        since.steps += count
        self._calls += 1
        if self._calls > 1:
            self._seconds, self._timed = self._seconds + seconds, self._timed + count

    def is_due(self, step: int) -> bool:
        """Whether a record is due after a step."""
        if self.record_every is None:
            return False
        return step % self.record_every == 0 or self.evaluates(step)

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after a step."""
        every, last = self._run.plan.evaluate_every, self._run.plan.steps
        return step in (0, last) or (every is not None and step % every == 0)

    def write(self, step: int, evaluation_loss: float | None, observed: Mapping[str, Any]) -> None:
        """Make the record of a step, and begin the next one. Every process has to call."""
        since, self.since = self.since, Since()
        row: dict[str, Any] = {
            "kind": "pretraining",
            "id": digest({"run": self._run_id, "step": step}),
            "run": self._run_id,
            "step": step,
            "tokens": step * self._run.batches.tokens_per_batch,
            "loss": since.loss / since.weight if since.weight else None,
            "gradient_norm": since.gradient_norm / since.steps if since.steps else None,
            "learning_rate": float(self._rates(step)),
            "evaluation_loss": evaluation_loss,
            **self._speed(),
        }
        if observed:
            row["observed"] = dict(observed)
        row = as_written({**row, **environment()})
        self._rows.append(row)
        if self._run.out is not None:
            Records([row]).write_to(epath.Path(self._run.out) / RECORDS)

    def _speed(self):
        """Tokens a second since the last record, and the share of the matrix rate that they come to."""
        seconds, steps = self._seconds, self._timed
        self._seconds, self._timed = 0.0, 0
        if not steps:
            return {"tokens_per_second": None, "matrix_share": None}
        optimisation = self._run.plan.optimisation
        if self._work is None:
            self._work = self._work_of_a_step()
        rate = matrix_rate(optimisation.dtype) * jax.device_count()
        return {
            "tokens_per_second": steps * self._run.batches.tokens_per_batch / seconds,
            "matrix_share": steps * self._work / seconds / rate,
        }

    def _work_of_a_step(self):
        """Three times that of the losses: a backward pass has two products for each."""
        objective = self._run.objective
        model = objective.model()
        params = jax.eval_shape(objective.init, jax.random.key(0))
        batch = {
            name: jax.ShapeDtypeStruct(np.shape(array), _as_read(np.asarray(array).dtype))
            for name, array in self._run.batches.batch(0).items()
        }
        keys = jax.eval_shape(lambda key: jax.random.split(key, self._num_rows), jax.random.key(0))
        return 3 * matrix_work(lambda *args: objective.loss(model, *args), params, batch, keys)

    def records(self) -> Records:
        """All of the run, those from before it was resumed as well, by step."""
        rows = self._rows
        if self._run.out is not None and self._run.takes_notes:
            path = epath.Path(self._run.out) / RECORDS
            rows = list(Records.read(path).where(kind="pretraining", run=self._run_id))
        return Records(sorted(rows, key=lambda row: row["step"]))


def _as_read(dtype):
    return np.dtype(np.int32) if np.issubdtype(dtype, np.integer) else dtype
