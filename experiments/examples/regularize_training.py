"""Ways of training a pooled block with a linear head on images: penalties, caps and margins."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from poolax import bounds
from poolax.training import HeadModule
from poolax.training.pretraining import cap_spectral_norms

PATCH = 2
NUM_TOKENS = (8 // PATCH) ** 2
#: Longest change of an image that the bound holds for, per unit of the whole range.
REACH = 0.25
# Most of the mean lead that a margin may take.
_SHARE = 0.9


class Plan(NamedTuple):
    """What all ways have in common.

    Attributes:
        seeds: Models of each way.
        epochs: Passes over the training images.
        batch_size: Images a step.
    """

    seeds: int
    epochs: int
    batch_size: int


class Way(NamedTuple):
    """A way of training.

    Attributes:
        learning_rate: Of Adam.
        strength: Weight of log L in the loss.
        cap: Largest norm of kernels and scales, infinite for none.
        margin: Length of changes that the margin is for, per unit of the whole range.
    """

    learning_rate: float | Float[Array, "..."]
    strength: float | Float[Array, "..."]
    cap: float | Float[Array, "..."]
    margin: float | Float[Array, "..."]


def to_tokens(images: Float[Array, "*batch 8 8"], width: int) -> Float[Array, "*batch n d"]:
    """Patches beside a code of their position: distances of images are distances of tokens."""
    *batch, size, _ = images.shape
    side = size // PATCH
    patches = images.reshape(*batch, side, PATCH, side, PATCH)
    patches = jnp.swapaxes(patches, -3, -2).reshape(*batch, side**2, PATCH**2)
    positions = jnp.broadcast_to(jnp.eye(side**2), (*batch, side**2, side**2))
    tokens = jnp.concatenate([patches, positions], axis=-1)
    return jnp.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, width - tokens.shape[-1])])


def domain_of_images(reach: float = 0.0) -> bounds.Domain:
    """The domain of all images with pixels from 0 to 1, and of all that is no further from one."""
    # All tokens together move by the reach: two of them part by sqrt(2) of it, of twice the spread.
    return bounds.Domain(
        radius=(PATCH**2 + 1) ** 0.5 + reach, spread=(PATCH**2 + 2) ** 0.5 / 2 + reach / 2**0.5
    )


def log_lipschitz(module: HeadModule, params, num_tokens: int) -> Float[Array, ""]:
    """Logarithm of the bound of the map from images and their neighbours to logits."""
    domain = domain_of_images(REACH)
    block = bounds.tbm(
        module.pooler,
        {"params": params["pooler"]},
        num_tokens=num_tokens,
        radius=domain.radius,
        spread=domain.spread,
    )
    return block.log_lipschitz + jnp.log(bounds.spectral_norm(params["output"]["kernel"]))


def capped(params, cap):
    """The block with its kernels' singular values cut to the cap, and scales of norms, as diagonals.

    The head stays as it is: its size changes logits and their bound alike, and no radius.
    """

    def cut(path, leaf):
        return jnp.clip(leaf, -cap, cap) if path[-1].key == "scale" else leaf

    # No cap is one that nothing reaches.
    cap = jnp.minimum(cap, jnp.finfo(jnp.float32).max / 2)
    block = cap_spectral_norms(params["pooler"], cap)
    return params | {"pooler": jax.tree_util.tree_map_with_path(cut, block)}


def raised(logits: Float[Array, "N k"], labels, asked: Float[Array, ""]) -> Float[Array, "N k"]:
    """Logits of all but the labels raised, by what is asked for or most of the mean lead that there is.

    Where more were asked for, a constant would have less loss, and training would find it.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1])
    leads = jnp.sum(logits * is_label, axis=-1) - jnp.max(logits - 1e9 * is_label, axis=-1)
    share = jnp.minimum(1, _SHARE * jnp.mean(jax.nn.relu(leads)) / jnp.maximum(asked, 1e-30))
    return logits + jax.lax.stop_gradient(share) * asked * (1 - is_label)


def train(module: HeadModule, tokens, labels, ways: Sequence[Way], plan: Plan):
    """Parameters with leading axes (way, seed), all trained at once."""
    tokens, labels = jnp.asarray(tokens), jnp.asarray(labels)
    batch_size = min(plan.batch_size, len(tokens))
    num_steps = len(tokens) // batch_size
    optimizer = optax.scale_by_adam()

    def loss(params, indices, way):
        log_bound = log_lipschitz(module, params, tokens.shape[1])
        # A margin of 0 asks for exp(-inf) = 0, without a gradient, however large the bound is.
        asked = jnp.exp(jnp.log(2**0.5 * way.margin) + log_bound)
        logits = raised(module.apply({"params": params}, tokens[indices]), labels[indices], asked)
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices])
        return jnp.mean(errors) + way.strength * log_bound

    def step(state, indices, way):
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, indices, way), opt_state)
        updates = jax.tree.map(lambda update: -way.learning_rate * update, updates)
        return capped(optax.apply_updates(params, updates), way.cap), opt_state

    def of_seed(seed, way):
        init_key, order_key = jax.random.split(jax.random.key(seed))
        params = capped(module.init(init_key, tokens[:1])["params"], way.cap)

        def epoch(state, key):
            order = jax.random.permutation(key, len(tokens))
            # A batch that is not full is left out; the next epoch has another order.
            batches = order[: num_steps * batch_size].reshape(num_steps, batch_size)
            return jax.lax.scan(lambda state, batch: (step(state, batch, way), None), state, batches)

        keys = jax.random.split(order_key, plan.epochs)
        (params, _), _ = jax.lax.scan(epoch, (params, optimizer.init(params)), keys)
        return params

    of_seeds = jax.vmap(of_seed, in_axes=(0, None))
    of_all = jax.jit(jax.vmap(of_seeds, in_axes=(None, 0)))
    return of_all(jnp.arange(plan.seeds), jax.tree.map(lambda *of: jnp.asarray(of), *ways))
