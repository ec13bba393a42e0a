"""Sizes of the quickstart."""

import dataclasses

from poolax._checks import check_count, check_number
from poolax.training import Converged

POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")
# Training to the end takes these little time.
CHEAP_POOLERS = ("last", "avg", "sum", "max", "wavg")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the quickstart; the defaults take a few minutes on two CPU cores.

    Attributes:
        seeds: Heads of each pooler.
        epochs: Passes over the training examples of each head of the paper's protocol.
        further_epochs: The same for the tasks after the first, half of them over texts.
        converged_epochs: Most passes of heads that are trained to the end, where they are not solved.
        pretrain_epochs: Passes over the training examples of the backbone, half of them over texts.
        block_epochs: Passes over the training examples of each block whose sensitivity is measured.
        learning_rates: Tried for each pooler; chosen by validation.
        num_inputs: Test examples at which sensitivity is measured.
        search_restarts: Restarts of the adversarial search.
        search_steps: Steps of each restart.
        seed: Sets everything random but the seeds of the heads.
        max_tokens: Tokens that texts are cut to, and the longest that the language model reads.
    """

    seeds: int = 5
    epochs: int = 10
    further_epochs: int = 10
    converged_epochs: int = 20
    pretrain_epochs: int = 150
    block_epochs: int = 15
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    num_inputs: int = 64
    search_restarts: int = 8
    search_steps: int = 50
    seed: int = 0
    max_tokens: int = 48

    def check(self) -> None:
        """Refuse numbers out of range."""
        counts = ("seeds", "epochs", "further_epochs", "converged_epochs", "pretrain_epochs")
        for name in (*counts, "block_epochs", "search_restarts", "search_steps"):
            check_count(name, getattr(self, name))
        for learning_rate in self.learning_rates:
            check_number("learning_rates", learning_rate, above=0.0)
        check_count("num_inputs", self.num_inputs, at_least=2)
        check_count("seed", self.seed, at_least=0)
        check_count("max_tokens", self.max_tokens, at_least=4)

    @property
    def solver(self) -> Converged:
        """How heads are trained to the end in little time: few strengths, one learning rate."""
        return Converged(
            strengths=(1e-4, 1e-3, 1e-2),
            tolerance=1e-3,
            max_steps=500,
            learning_rates=(1e-2,),
            max_epochs=self.converged_epochs,
        )

    def sizes(self) -> dict[str, object]:
        """All settings but those that change no measurement: seeds, and heads trained to the end.

        How many tokens are read, the backbone's fingerprint says.
        """
        named = dataclasses.asdict(self)
        del named["seeds"], named["max_tokens"], named["converged_epochs"]
        return named
