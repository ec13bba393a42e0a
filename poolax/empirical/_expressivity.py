"""Expressivity and noise curves by Monte Carlo, with confidence intervals over inputs."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Array, Float

from poolax._checks import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_number,
    check_values,
)
from poolax._numerics import accumulation_dtype, safe_norm
from poolax._records import ExpressivityEstimate, NoiseCurve

_ASCENT_STEPS = 20


def expressivity(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    inputs: Float[Array, "N ..."],
    *,
    epsilon: float,
    sigma: float,
    key: jax.Array,
    num_perturbations: int = 16,
    neighbourhood: str = "ball",
    batch_size: int | None = None,
    confidence: float = 0.95,
) -> ExpressivityEstimate:
    r"""Estimate how often a change of size ``epsilon`` moves the output by more than ``sigma``.

    ``E = P(|f(X) - f(X')| > sigma)``, with ``X`` from the distribution of ``inputs`` and ``X'`` in its
    neighbourhood:

    - ``"ball"``: uniform in the ball ``|X - X'| <= epsilon``;
    - ``"gaussian"``: Gaussian noise whose root mean square norm is ``epsilon``;
    - ``"adversarial"``: the farthest output that projected gradient ascent from
      ``num_perturbations`` points of the ball finds, a lower estimate of "there is one".

    The interval is over inputs, which are the independent samples: Clopper-Pearson where an input
    contributes 0 or 1 (adversarial, or one perturbation), Chernoff's bound in its relative entropy
    form, which holds for means of values between 0 and 1, where it contributes a fraction.

    Args:
        fn: Takes one input and returns one array; it is vectorised over inputs.
        inputs: Inputs, shape ``(N, ...)``.
        epsilon: Size of the change (Frobenius norm), at least 0.
        sigma: Distance of the outputs (Euclidean norm) that counts as a move, above 0.
        key: Random key.
        num_perturbations: Perturbations of each input.
        neighbourhood: ``"ball"``, ``"gaussian"`` or ``"adversarial"``.
        batch_size: Evaluations of ``fn`` at a time, which bounds the memory; ``None`` takes 256.
        confidence: Confidence of the interval.

    Returns:
        The estimate, its interval, and the mean distance (of the farthest outputs for
        ``"adversarial"``).

    Raises:
        ValueError: for an unknown neighbourhood, numbers out of range, inputs that are not floating
            or not finite, no input, or outputs that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> estimate = expressivity(
        ...     lambda x: 2.0 * x, jnp.zeros((50, 3)), epsilon=0.1, sigma=0.3, key=jax.random.key(0)
        ... )
        >>> estimate.probability
        0.0

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Definition 4.1.
    """
    check_choice("neighbourhood", neighbourhood, ("ball", "gaussian", "adversarial"))
    check_number("epsilon", epsilon, at_least=0.0)
    check_number("sigma", sigma, above=0.0)
    check_number("confidence", confidence, above=0.0, below=1.0)
    distances = _distances(
        fn, inputs, jnp.asarray([epsilon]), key, num_perturbations, neighbourhood, batch_size
    )[:, 0]
    moved = distances > sigma
    num_inputs = distances.shape[0]
    if neighbourhood == "adversarial":
        contributions, distances = moved.any(axis=1).astype(float), distances.max(axis=1)
    else:
        contributions = moved.mean(axis=1)
    mean = float(contributions.mean())
    if neighbourhood == "adversarial" or num_perturbations == 1:
        test = scipy.stats.binomtest(int(contributions.sum()), num_inputs)
        interval = test.proportion_ci(confidence, method="exact")
        low, high = float(interval.low), float(interval.high)
    else:
        low, high = _chernoff_interval(mean, num_inputs, confidence)
    return ExpressivityEstimate(
        probability=mean,
        low=low,
        high=high,
        mean_distance=float(distances.mean()),
        num_inputs=num_inputs,
    )


def noise_curve(
    fn: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    inputs: Float[Array, "N ..."],
    epsilons: Float[Array, " k"],
    *,
    key: jax.Array,
    num_perturbations: int = 8,
    batch_size: int | None = None,
    confidence: float = 0.95,
) -> NoiseCurve:
    r"""Mean distance of outputs against the size of Gaussian noise on the input.

    Noise of size ``epsilon`` has independent Gaussian entries and root mean square norm
    ``epsilon``. All sizes use the same directions, so that the curve is smooth.

    Args:
        fn: Takes one input and returns one array; it is vectorised over inputs.
        inputs: Inputs, shape ``(N, ...)``, at least two.
        epsilons: Sizes of the noise, shape ``(k,)``, at least 0.
        key: Random key.
        num_perturbations: Perturbations of each input.
        batch_size: Evaluations of ``fn`` at a time, which bounds the memory; ``None`` takes 256.
        confidence: Confidence of the interval of the mean.

    Returns:
        The curve; its interval is Student's, over inputs.

    Raises:
        ValueError: for numbers out of range, inputs that are not floating or not finite, fewer than
            two inputs, or outputs that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> curve = noise_curve(
        ...     lambda x: x.sum(), jnp.zeros((20, 4)), jnp.array([0.0, 1.0]), key=jax.random.key(0)
        ... )
        >>> float(curve.mean[0]), bool(curve.low[1] < curve.mean[1] < curve.high[1])
        (0.0, True)

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Figure 2, left.
    """
    if np.ndim(epsilons) != 1 or np.size(epsilons) == 0:
        raise ValueError(f"epsilons: expected shape (k,) with k >= 1, got {np.shape(epsilons)}")
    check_values("epsilons", epsilons, at_least=0.0)
    check_number("confidence", confidence, above=0.0, below=1.0)
    if len(inputs) < 2:
        raise ValueError(f"inputs: expected at least two inputs, got {len(inputs)}")
    epsilons = jnp.asarray(epsilons)
    distances = _distances(fn, inputs, epsilons, key, num_perturbations, "gaussian", batch_size).mean(
        axis=2
    )
    num_inputs = distances.shape[0]
    mean = distances.mean(axis=0)
    error = distances.std(axis=0, ddof=1) / math.sqrt(num_inputs)
    margin = error * scipy.stats.t.ppf((1 + confidence) / 2, num_inputs - 1)
    return NoiseCurve(
        epsilon=epsilons,
        mean=jnp.asarray(mean),
        low=jnp.asarray(np.maximum(mean - margin, 0)),
        high=jnp.asarray(mean + margin),
    )


def _distances(fn, inputs, epsilons, key, num_perturbations, neighbourhood, batch_size):
    """Distances of outputs, shape (num_inputs, num_epsilons, num_perturbations), in NumPy."""
    check_count("num_perturbations", num_perturbations)
    batch_size = 256 if batch_size is None else batch_size
    check_count("batch_size", batch_size)
    check_floating("inputs", inputs)
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 1 or inputs.shape[0] == 0:
        raise ValueError(f"inputs: expected shape (N, ...) with N >= 1, got {inputs.shape}")
    check_finite("inputs", inputs)
    keys = jax.random.split(key, inputs.shape[0])
    with jax.default_matmul_precision("highest"):
        distances = _map_distances(
            inputs, epsilons, keys, fn, num_perturbations, neighbourhood, batch_size
        )
    check_finite("outputs of fn", distances)
    return np.asarray(distances, np.float64)


@functools.partial(jax.jit, static_argnames=("fn", "num_perturbations", "neighbourhood", "batch_size"))
def _map_distances(inputs, epsilons, keys, fn, num_perturbations, neighbourhood, batch_size):
    perturbations_at_once = min(num_perturbations, batch_size)
    inputs_at_once = max(1, batch_size // perturbations_at_once)

    def of_input(pair):
        x, key = pair
        clean = fn(x)

        def distance(key, epsilon):
            noise = _perturbation(key, x, epsilon, neighbourhood)
            if neighbourhood == "adversarial":
                noise = _ascend(fn, x, clean, noise, epsilon)
            return safe_norm(_difference(fn, x, noise, clean))

        keys = jax.random.split(key, num_perturbations)

        def of_epsilon(epsilon):
            return jax.lax.map(
                lambda key: distance(key, epsilon), keys, batch_size=perturbations_at_once
            )

        return jax.lax.map(of_epsilon, epsilons)

    return jax.lax.map(of_input, (inputs, keys), batch_size=inputs_at_once)


def _difference(fn, x, noise, clean):
    moved = fn(x + noise.astype(x.dtype))
    return (moved - clean).astype(accumulation_dtype(clean))


def _perturbation(key, x, epsilon, neighbourhood):
    dtype = accumulation_dtype(x)
    direction_key, length_key = jax.random.split(key)
    noise = jax.random.normal(direction_key, x.shape, dtype)
    if neighbourhood == "gaussian":
        return noise * epsilon / math.sqrt(x.size)
    length = jax.random.uniform(length_key, (), dtype) ** (1 / x.size)
    return noise * (epsilon * length / safe_norm(noise))


def _ascend(fn, x, clean, noise, epsilon):
    """Gradient ascent of the distance, on the ball; steps shrink from epsilon to nothing."""

    def step(carry, progress):
        noise, best = carry
        distance, gradient = jax.value_and_grad(
            lambda noise: safe_norm(_difference(fn, x, noise, clean))
        )(noise)
        best = jax.tree.map(
            lambda new, old: jnp.where(distance > best[0], new, old), (distance, noise), best
        )
        norm = safe_norm(gradient)
        noise = noise + epsilon * (1 - progress) * gradient / jnp.where(norm > 0, norm, 1)
        norm = safe_norm(noise)
        noise = noise * jnp.minimum(1, epsilon / jnp.where(norm > 0, norm, 1))
        return (noise, best), None

    progress = jnp.arange(_ASCENT_STEPS) / _ASCENT_STEPS
    start = (noise, (jnp.zeros((), noise.dtype), noise))
    (noise, best), _ = jax.lax.scan(step, start, progress)
    last = safe_norm(_difference(fn, x, noise, clean))
    return jnp.where(last > best[0], noise, best[1])


def _chernoff_interval(mean, count, confidence):
    """All means that ``count KL(mean | m) <= log(2 / (1 - confidence))`` does not exclude."""
    limit = math.log(2 / (1 - confidence)) / count

    def excess(m):
        pairs = ((mean, m), (1 - mean, 1 - m))
        return sum(p * math.log(p / q) for p, q in pairs if p > 0) - limit

    def crossing(outer, none):
        # An end so close to 0 or 1 that numbers do not reach it is taken to be 0 or 1.
        if mean == none or excess(outer) <= 0:
            return float(none)
        return float(scipy.optimize.root_scalar(excess, bracket=sorted((outer, mean))).root)

    return crossing(1e-300, 0), crossing(1 - 1e-15, 1)
