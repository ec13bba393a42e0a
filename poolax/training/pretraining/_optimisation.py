"""How fast and by what a model is pretrained: optimizers, rates, precision, memory."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import PyTree

from poolax import codec
from poolax._checks import check_choice, check_count, check_flag, check_number
from poolax.training.arguments import check_seed
from poolax.training.pretraining._matrices import Matrix, matrices_of
from poolax.training.pretraining._spectral import METHODS

OPTIMIZERS = ("adamw", "muon")
DTYPES = ("float32", "bfloat16")


@codec.register("optimisation", "pretraining")
@dataclasses.dataclass(frozen=True)
class Optimisation:
    """Optimizer, rates, precision and memory of pretraining.

    The learning rate rises linearly over the warm-up and falls on a cosine to ``final_fraction`` of its
    peak. Weights are float32 whatever the blocks compute in.

    Attributes:
        optimizer: ``"adamw"``, or ``"muon"`` for kernels and AdamW for all else.
        learning_rate: Peak rate of AdamW.
        muon_learning_rate: Peak rate of Muon.
        warmup_steps: Steps of the warm-up; ``None`` takes a twentieth of all steps.
        final_fraction: Rate of the last step over the peak.
        weight_decay: Of kernels and tables of embeddings; with Muon of kernels alone.
        decay_vectors: Whether norms and biases decay as well, by AdamW.
        b1: Decay of the mean of gradients.
        b2: Decay of the mean of their squares.
        eps: What AdamW adds to the root of that.
        clip: Largest norm of all gradients together; ``None`` clips nothing.
        spectral_cap: Largest spectral norm of a kernel, from the first step on; ``None`` for none.
        spectral_method: ``"cap"``, ``"hammer"``, ``"normalize"`` or ``"soft"``; see
            :func:`cap_spectral_norms`, which also says what follows for a network.
        accumulation: Micro-batches into which each device cuts its rows of a step.
        dtype: What blocks compute in, ``"float32"`` or ``"bfloat16"``.
        remat: Compute blocks, and logits of a vocabulary, again in the backward pass instead of keeping
            what they compute.
        scan_layers: Stack the parameters of blocks and scan them, which compiles in a fraction of the
            time. For models of equal blocks.

    Raises:
        ValueError: for what is out of range.

    Example:
        >>> Optimisation(optimizer="muon", spectral_cap=1.0, accumulation=40).clip
        1.0
    """

    optimizer: str = "adamw"
    learning_rate: float = 6e-4
    muon_learning_rate: float = 0.02
    warmup_steps: int | None = None
    final_fraction: float = 0.1
    weight_decay: float = 0.1
    decay_vectors: bool = False
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip: float | None = 1.0
    spectral_cap: float | None = None
    spectral_method: str = "cap"
    accumulation: int = 1
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False

    def __post_init__(self):
        """Refuse what is out of range."""
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("spectral_method", self.spectral_method, METHODS)
        check_choice("dtype", self.dtype, DTYPES)
        for field in ("learning_rate", "muon_learning_rate", "eps"):
            check_number(field, getattr(self, field), above=0.0)
        for field in ("clip", "spectral_cap"):
            if getattr(self, field) is not None:
                check_number(field, getattr(self, field), above=0.0)
        check_number("weight_decay", self.weight_decay, at_least=0.0)
        check_number("final_fraction", self.final_fraction, at_least=0.0)
        if self.final_fraction > 1:
            raise ValueError(f"final_fraction: expected at most 1, got {self.final_fraction:g}")
        for field in ("b1", "b2"):
            check_number(field, getattr(self, field), at_least=0.0, below=1.0)
        if self.warmup_steps is not None:
            check_count("warmup_steps", self.warmup_steps, at_least=0)
        check_count("accumulation", self.accumulation)
        for field in ("decay_vectors", "remat", "scan_layers"):
            check_flag(field, getattr(self, field))

    def rates(self, steps: int, peak: float | None = None) -> optax.Schedule:
        """The learning rate by step.

        Args:
            steps: Steps of the run.
            peak: Peak rate; ``None`` takes :attr:`learning_rate`.

        Returns:
            The schedule.
        """
        peak = self.learning_rate if peak is None else peak
        warmup = max(1, steps // 20) if self.warmup_steps is None else self.warmup_steps
        warmup = min(warmup, steps - 1)
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak, peak, warmup, steps, end_value=self.final_fraction * peak
        )

    def kernel_rates(self, steps: int) -> optax.Schedule:
        """The learning rate of kernels by step, by whichever optimizer."""
        return self.rates(steps, self.muon_learning_rate if self.optimizer == "muon" else None)

    def transformation(self, steps: int) -> optax.GradientTransformation:
        """The optimizer of a run of so many steps, without clipping and caps."""
        mask = None if self.decay_vectors else _decays
        if self.optimizer == "adamw":
            return optax.adamw(
                self.rates(steps),
                b1=self.b1,
                b2=self.b2,
                eps=self.eps,
                weight_decay=self.weight_decay,
                mask=mask,
            )
        return optax.contrib.muon(
            self.kernel_rates(steps),
            weight_decay=self.weight_decay,
            adam_b1=self.b1,
            adam_b2=self.b2,
            eps=self.eps,
            adam_learning_rate=self.rates(steps),
            muon_weight_dimension_numbers=_dimension_numbers,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run of pretraining: how many steps, and what happens on the way.

    Attributes:
        steps: Steps of the optimizer.
        optimisation: By what and how fast.
        seed: Sets initialisation and what is hidden.
        record_every: Steps between two records; ``None`` takes a hundredth of all steps.
        evaluate_every: Steps between two evaluations, each of which is a record too; ``None`` evaluates
            at the beginning and at the end.
        checkpoint_every: Steps between two checkpoints; ``None`` writes one a minute.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> Plan(steps=60_000, optimisation=Optimisation(warmup_steps=2000)).optimisation.b2
        0.95
    """

    steps: int
    optimisation: Optimisation = Optimisation()
    seed: int = 0
    record_every: int | None = None
    evaluate_every: int | None = None
    checkpoint_every: int | None = None

    def __post_init__(self):
        """Refuse numbers out of range."""
        check_count("steps", self.steps)
        check_seed("seed", self.seed)
        for field in ("record_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, field) is not None:
                check_count(field, getattr(self, field))


def _decays(params: PyTree) -> PyTree:
    """True at kernels and tables, whether or not they are stacked."""

    def decays(path, leaf):
        names = [str(getattr(key, "key", key)) for key in path]
        # Tables of relative biases, one a head and distance, are biases as well.
        is_bias = any(name.endswith("bias") for name in names)
        is_scale = names[-1] == "scale" or names[-1].endswith("_scale")
        return not is_bias and not is_scale and jnp.ndim(leaf) - ("blocks" in names) > 1

    return jax.tree_util.tree_map_with_path(decays, params)


def _dimension_numbers(params: PyTree) -> PyTree:
    def numbers(matrix):
        if matrix is None:
            return None
        return optax.contrib.MuonDimensionNumbers(matrix.rows, matrix.columns)

    return jax.tree.map(
        numbers,
        matrices_of(params),
        is_leaf=lambda node: node is None or isinstance(node, Matrix),
    )
