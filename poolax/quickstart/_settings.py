"""Sizes of the quickstart."""

import dataclasses

from poolax._checks import check_count, check_number

POOLERS = ("last", "avg", "sum", "max", "wavg", "attn")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the quickstart; the defaults take a few minutes on two CPU cores.

    Attributes:
        seeds: Heads of each pooler.
        epochs: Passes over the training examples of each head.
        further_epochs: The same for the tasks after the first, half of them over texts.
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
    epochs: int = 30
    further_epochs: int = 10
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
        counts = ("seeds", "epochs", "further_epochs", "pretrain_epochs", "block_epochs")
        for name in (*counts, "search_restarts", "search_steps"):
            check_count(name, getattr(self, name))
        for learning_rate in self.learning_rates:
            check_number("learning_rates", learning_rate, above=0.0)
        check_count("num_inputs", self.num_inputs, at_least=2)
        check_count("seed", self.seed, at_least=0)
        check_count("max_tokens", self.max_tokens, at_least=4)

    def sizes(self) -> dict[str, object]:
        """All settings but the number of seeds, which changes no single measurement.

        How many tokens are read, the backbone's fingerprint says.
        """
        named = dataclasses.asdict(self)
        del named["seeds"], named["max_tokens"]
        return named
