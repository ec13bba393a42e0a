"""How fast poolers train: curves, steps to 95 % of the last score, seconds, and what is left to gain.

    python experiments/optimisation.py --datasets banking77 tweet_emotion stsb --data-dir DIR
    python experiments/optimisation.py --quick

The paper's third trend is that poolers differ in how fast they converge; it shows curves of training,
and reports scores after a fixed number of epochs of Adam. Here heads are trained by that protocol and
to the end, so that what is optimisation can be told from what a pooler keeps. Records, table and
figure stand in --out; the same command goes on from what is finished.

Duration (estimate, two CPU cores): an hour for BANKING77 with MiniLM, most of it for
attention, and some minutes for the digits; --quick a minute or two.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("optimisation")

import dataclasses
import sys

import probing

from poolax.records import Records
from poolax.reporting import optimisation_tables, plot_training_curves


@dataclasses.dataclass(frozen=True)
class Options(probing.Options):
    """Compare how fast poolers train."""

    out: str = "poolax-optimisation"


def measure(options, out, progress, limits):
    """Heads by each solver, with their curves."""
    rows = []
    for setup in probing.setups(options, out, progress):
        for solver in dict.fromkeys(options.solvers):
            rows += probing.trained(
                setup,
                options,
                out,
                progress,
                limits,
                **options.solving(solver),
            )
    return Records(rows)


SCRIPT = probing.Script(
    name="optimisation",
    title="How fast poolers train",
    options=Options(),
    measure=measure,
    tables=optimisation_tables,
    figures={"curves": plot_training_curves},
)

if __name__ == "__main__":
    sys.exit(probing.main(SCRIPT))
