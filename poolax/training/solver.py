"""How heads are trained: by the paper's protocol, or to the end."""

import dataclasses
from collections.abc import Sequence

from poolax import codec
from poolax._checks import check_choice, check_count, check_flag, check_number

SOLVERS = ("adam", "converged")
_STEPS = 600
_FEWEST_EPOCHS, _MOST_EPOCHS = 10, 100


@codec.register("solver", "converged")
@dataclasses.dataclass(frozen=True, repr=False)
class Converged:
    """Heads that are trained until nothing is to be gained: poolings are compared, not optimisers.

    Inputs of a linear head are standardised by the training split. Poolers without parameters get the
    head of least ``mean loss + strength / 2 |kernel|^2``: in closed form for squared errors, by L-BFGS
    otherwise; the strength is chosen by validation, or by cross-validation where fewer than 50 examples
    are for it: of those whose score is within one standard error of the best one, over the same
    examples, the one of least loss. Losses that are not convex are descended from several starts, of
    which the lowest is taken. Where this would take more than is stated, as with the head of a language
    model, these heads are trained along the schedule of the other poolers, on standardised vectors;
    records say so.

    Other poolers see token states whose entries are standardised over all real tokens of the training
    split. Adam's learning rate rises and then decays along a cosine; the state of the best validation
    score is kept, and a head stops where nothing has become better for a while.

    Attributes:
        strengths: Of the penalty. Where the best is the first or the last of them, weaker or stronger
            ones are tried as well, from 1e-9 to 1e4.
        tolerance: What the largest entry of the gradient may be at the end, in units of the mean norm
            of the loss's derivative by outputs of zero.
        max_steps: Most steps of L-BFGS for a strength.
        refit: Whether the head of the chosen strength is trained on training and validation split;
            records then have the validation score by which it was chosen.
        learning_rates: Of poolers with parameters, largest ones of their schedule. All are tried with
            the first seed, and up to ``further_rates`` beyond either edge where the best stands there;
            the other seeds take the one that validates best. A single one is taken as it is.
        max_epochs: Most passes over the training split of these, along which the schedule runs;
            ``None`` for as many as make 600 steps, at least 10 and at most 100.
        patience: Epochs after which one of these stops if neither validation score nor loss became
            better.
        warmup: Share of the steps of ``max_epochs`` over which the learning rate rises.
        num_starts: Of losses that are not convex, for each seed. All strengths are tried from the first
            one, the chosen strength from the others as well.
        max_flops: Most operations that solving the heads of a pooler and seed may take, as planned.
            Two cores do about 1e11 in a second.
        max_bytes: Most memory that it may take.
        further_rates: Learning rates that are tried beyond either edge, at most.
        from_average: Whether heads of poolers that can be the average (W-Avg, hybrid, attention of
            learned queries, latent and gated attention) start as it, with its solved linear layer, so
            that none validates worse than the average does: the start may be the best state, which
            records call epoch -1. Otherwise all parameters are drawn.

    Example:
        >>> Converged(strengths=[1e-2, 1e-1], patience=5).strengths
        (0.01, 0.1)
    """

    strengths: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    tolerance: float = 1e-5
    max_steps: int = 1000
    refit: bool = False
    learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3)
    max_epochs: int | None = None
    patience: int = 5
    warmup: float = 0.02
    num_starts: int = codec.added(3)
    max_flops: float = codec.added(2e13)
    max_bytes: float = codec.added(4e9)
    further_rates: int = codec.added(2)
    from_average: bool = codec.added(False)

    __repr__ = codec.brief  # type: ignore[assignment]

    def __post_init__(self):
        """Refuse numbers out of range."""
        for name in ("strengths", "learning_rates"):
            values = tuple(getattr(self, name))
            if not values:
                raise ValueError(f"{name}: expected at least one, got none")
            for value in values:
                check_number(name, value, above=0.0)
            object.__setattr__(self, name, values)
        if self.max_epochs is not None:
            check_count("max_epochs", self.max_epochs)
        check_count("patience", self.patience)
        check_number("warmup", self.warmup, at_least=0.0, below=1.0)
        check_number("tolerance", self.tolerance, above=0.0)
        check_count("max_steps", self.max_steps)
        check_flag("refit", self.refit)
        check_flag("from_average", self.from_average)
        check_count("num_starts", self.num_starts)
        check_number("max_flops", self.max_flops, at_least=0.0)
        check_number("max_bytes", self.max_bytes, at_least=0.0)
        check_count("further_rates", self.further_rates, at_least=0)

    def num_epochs(self, num_train: int, batch_size: int) -> int:
        """Most passes over a training split of so many examples.

        Example:
            >>> [Converged().num_epochs(num, 32) for num in (100, 1000, 10_000)]
            [100, 19, 10]
        """
        if self.max_epochs is not None:
            return self.max_epochs
        num_steps = -(-num_train // batch_size)
        return min(max(-(-_STEPS // num_steps), _FEWEST_EPOCHS), _MOST_EPOCHS)


def solver_of(solver: str | Converged) -> Converged | None:
    """The options of a solver by name; ``None`` for Adam, which has none."""
    if isinstance(solver, Converged):
        return solver
    check_choice("solver", solver, SOLVERS)
    return Converged() if solver == "converged" else None
