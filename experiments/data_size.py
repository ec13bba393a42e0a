"""Which pooler needs less data: scores by the number of training examples, all heads converged.

    python experiments/data_size.py --datasets banking77 --shots 1 2 4 8 16 32 --data-dir DIR
    python experiments/data_size.py --quick

A few examples of each class are drawn --seeds times, the same ones for all poolers; the last column
has all of the training split. The paper reports scores with all examples alone, after a fixed number
of epochs. Records, table and figure stand in --out; the same command goes on from what is
finished.

Duration (estimate, two CPU cores): an hour for BANKING77 with MiniLM, most of it for
attention, and some minutes for the digits; --quick a minute or two.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("data_size")

import dataclasses
import sys

import comparison
import probing

from poolax.cli import check_count
from poolax.records import Records
from poolax.reporting import plot_sizes, size_tables
from poolax.training import Classification, few_shot, sweep


@dataclasses.dataclass(frozen=True)
class Options(probing.Options):
    """Compare poolers by the number of training examples.

    Attributes:
        shots: Examples of each class.
    """

    out: str = "poolax-data-size"
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    solvers: comparison.Solvers = ("converged",)

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        for number in self.shots:
            check_count("shots", number)
        if self.solvers != ("converged",):
            raise ValueError(f"solvers: expected converged alone, got {', '.join(self.solvers)}")


def measure(options, out, progress, limits):
    """Heads on few examples of each class, and on all."""
    shared = {"poolers": options.poolers, "limits": limits, "progress": progress}
    shared |= options.solving("converged")
    rows = []
    for setup in probing.setups(options, out, progress):
        if not isinstance(setup.task, Classification):
            raise ValueError(f"datasets: expected classifications, got {setup.name}")
        about = (setup.backbone, setup.data, setup.task)
        draws = {"shots": options.shots, "draws": options.seeds}
        rows += few_shot(*about, **draws, **shared, out=out / "few", name=setup.model)
        rows += sweep(
            *about,
            **shared,
            seeds=options.seeds,
            epochs=setup.epochs,
            batch_size=setup.batch_size,
            features=options.features,
            out=out / "all",
            name=setup.model,
        )
    return Records(rows)


SCRIPT = probing.Script(
    name="data_size",
    title="Scores by the number of training examples",
    options=Options(),
    measure=measure,
    tables=size_tables,
    figures={"sizes": plot_sizes},
    # As many as there are of each class of so few examples.
    quick={**probing.QUICK, "shots": (1, 2, 4)},
)

if __name__ == "__main__":
    sys.exit(probing.main(SCRIPT))
