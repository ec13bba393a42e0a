"""Expressivity and noise curves by Monte Carlo, with confidence intervals over inputs."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Bool, Float, PyTree

from poolax._checks import check_number, check_values
from poolax._intervals import chernoff_interval, clopper_pearson
from poolax._typing import AnyArray
from poolax.empirical._neighbourhood import output_distances
from poolax.records import ExpressivityEstimate, NoiseCurve


def expressivity(
    fn: Callable[..., Float[Array, "..."]],
    inputs: Float[AnyArray, "N ..."],
    masks: Bool[AnyArray, "N ..."] | None = None,
    *,
    epsilon: float,
    sigma: float,
    key: jax.Array,
    num_perturbations: int = 16,
    neighbourhood: str = "ball",
    geometry: str = "frobenius",
    project: Callable[[Array], Array] | None = None,
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

    Changes, their norm and the adversary act on what ``masks`` marks as real; what else stands in an
    input, NaN included, is given to ``fn`` as it is.

    The interval is over inputs, which are the independent samples: Clopper-Pearson where an input
    contributes 0 or 1 (adversarial, or one perturbation), Chernoff's bound in its relative entropy
    form, which holds for means of values between 0 and 1, where it contributes a fraction.

    Args:
        fn: Takes one input, and its mask if there are ``masks``; returns one array. It is vectorised
            over inputs.
        inputs: Tokens ``(N, n, d)``, images ``(N, height, width, channels)``, series ``(N, time)``, or
            any other shape ``(N, ...)``.
        masks: True at what is real, such as tokens ``(N, n)`` or steps ``(N, time)``: broadcastable to
            as many leading axes of ``inputs`` as it has; ``None`` if all is real.
        epsilon: Size of the change, at least 0.
        sigma: Distance of the outputs (Euclidean norm) that counts as a move, above 0.
        key: Random key.
        num_perturbations: Perturbations of each input.
        neighbourhood: ``"ball"``, ``"gaussian"`` or ``"adversarial"``.
        geometry: ``"frobenius"`` for changes of that Frobenius norm, ``"tokens"`` for one of that norm
            in each token, a row of the last axis.
        project: Maps a changed input to the nearest one that is allowed, such as ``lambda x:
            jnp.clip(x, 0, 1)`` for pixels; onto a convex set that holds the inputs it makes no change
            larger. What is not real is zero when it sees it.
        batch_size: Evaluations of ``fn`` at a time, which bounds the memory; ``None`` takes 256.
        confidence: Confidence of the interval.

    Returns:
        The estimate, its interval, and the mean distance (of the farthest outputs for
        ``"adversarial"``).

    Raises:
        ValueError: for an unknown neighbourhood or geometry, numbers out of range, inputs that are not
            floating or not finite, no input, an input of which nothing is real, a projection that moves
            the inputs, or outputs that are not one finite array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> estimate = expressivity(
        ...     lambda x: 2.0 * x, jnp.zeros((50, 3)), epsilon=0.1, sigma=0.3, key=jax.random.key(0)
        ... )
        >>> estimate.probability
        0.0

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Definition 4.1. Intervals: Clopper and Pearson
        (1934), and Chernoff's bound; Theory, sections 2.1 and 10.4.
    """
    check_number("epsilon", epsilon, at_least=0.0)
    check_number("sigma", sigma, above=0.0)
    check_number("confidence", confidence, above=0.0, below=1.0)
    distances: Any = output_distances(
        fn,
        inputs,
        masks,
        jnp.asarray([epsilon]),
        key=key,
        num_perturbations=num_perturbations,
        neighbourhood=neighbourhood,
        geometry=geometry,
        project=project,
        batch_size=batch_size,
    )
    if not isinstance(distances, np.ndarray):
        raise ValueError(f"fn: expected to return one array, got {type(distances).__name__}")
    distances = distances[:, 0]
    moved = distances > sigma
    num_inputs = distances.shape[0]
    if neighbourhood == "adversarial":
        moved, distances = moved.any(axis=1, keepdims=True), distances.max(axis=1)
    mean = float(moved.mean())
    if moved.shape[1] == 1:
        low, high = clopper_pearson(int(moved.sum()), num_inputs, confidence)
    else:
        low, high = chernoff_interval(mean, num_inputs, confidence)
    return ExpressivityEstimate(
        probability=mean,
        low=low,
        high=high,
        mean_distance=float(distances.mean()),
        num_inputs=num_inputs,
    )


def noise_curve(
    fn: Callable[..., PyTree[Float[Array, "..."]]],
    inputs: Float[AnyArray, "N ..."],
    epsilons: Float[AnyArray, " k"],
    masks: Bool[AnyArray, "N ..."] | None = None,
    *,
    key: jax.Array,
    num_perturbations: int = 8,
    neighbourhood: str = "gaussian",
    geometry: str = "frobenius",
    project: Callable[[Array], Array] | None = None,
    batch_size: int | None = None,
    confidence: float = 0.95,
) -> Any:
    r"""Mean distance of outputs against the size of noise on the input, for one or many outputs.

    The curve is ``epsilon -> E |f(X) - f(X')|``, over inputs ``X`` and their neighbours ``X'``. By
    default noise of size ``epsilon`` has independent Gaussian entries and root mean square norm
    ``epsilon``; the other neighbourhoods are those of :func:`expressivity`. All sizes use the same
    directions, so that the curve is smooth.

    A function that returns a dictionary, such as one output for each pooler on the same token states,
    gives a dictionary of curves: a backbone runs once for all of them, and all see the same noise.
    Only adversaries differ by output.

    Args:
        fn: Takes one input, and its mask if there are ``masks``; returns one array or a tree of them.
            It is vectorised over inputs.
        inputs: Inputs, shape ``(N, ...)``, at least two.
        epsilons: Sizes of the noise, shape ``(k,)``, at least 0.
        masks: As in :func:`expressivity`.
        key: Random key.
        num_perturbations: Perturbations of each input.
        neighbourhood: ``"gaussian"``, ``"ball"`` or ``"adversarial"``.
        geometry: As in :func:`expressivity`.
        project: As in :func:`expressivity`.
        batch_size: Evaluations of ``fn`` at a time, which bounds the memory; ``None`` takes 256.
        confidence: Confidence of the interval of the mean.

    Returns:
        A :class:`NoiseCurve`, or a tree of them; the interval is Student's, over inputs, which each
        contribute the mean (``"adversarial"``: the largest) of their distances.

    Raises:
        ValueError: as :func:`expressivity` does, for ``epsilons`` of another shape, or for fewer than
            two inputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> curves = noise_curve(
        ...     lambda x: {"sum": x.sum(), "avg": x.mean()},
        ...     jnp.zeros((20, 4)), jnp.array([0.0, 1.0]), key=jax.random.key(0),
        ... )
        >>> curve = curves["sum"]
        >>> float(curve.mean[0]), bool(curve.low[1] < curve.mean[1] < curve.high[1])
        (0.0, True)
        >>> print(f"{curve.mean[1] / curves['avg'].mean[1]:.3f}")
        4.000

    Reference:
        "Pool Me Wisely" (Ennadir et al., NeurIPS 2025), Figure 2, left; Theory, section 10.4.
    """
    if np.ndim(epsilons) != 1 or np.size(epsilons) == 0:
        raise ValueError(f"epsilons: expected shape (k,) with k >= 1, got {np.shape(epsilons)}")
    check_values("epsilons", epsilons, at_least=0.0)
    check_number("confidence", confidence, above=0.0, below=1.0)
    if len(inputs) < 2:
        raise ValueError(f"inputs: expected at least two inputs, got {len(inputs)}")
    epsilons = jnp.asarray(epsilons)
    distances = output_distances(
        fn,
        inputs,
        masks,
        epsilons,
        key=key,
        num_perturbations=num_perturbations,
        neighbourhood=neighbourhood,
        geometry=geometry,
        project=project,
        batch_size=batch_size,
    )

    def curve(distances):
        adversarial = neighbourhood == "adversarial"
        by_input = distances.max(axis=2) if adversarial else distances.mean(axis=2)
        mean = by_input.mean(axis=0)
        error = by_input.std(axis=0, ddof=1) / math.sqrt(len(by_input))
        margin = error * scipy.stats.t.ppf((1 + confidence) / 2, len(by_input) - 1)
        return NoiseCurve(
            epsilon=epsilons,
            mean=jnp.asarray(mean),
            low=jnp.asarray(np.maximum(mean - margin, 0)),
            high=jnp.asarray(mean + margin),
            by_input=jnp.asarray(by_input),
        )

    return jax.tree.map(curve, distances)
