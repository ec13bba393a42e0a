"""Pretraining without labels: a Vision Transformer learns to fill in hidden patches."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Float

from poolax._checkpoint import (
    checkpoint_metadata,
    latest_step,
    restore_checkpoint,
    save_checkpoint,
)
from poolax._checks import check_count, check_number
from poolax.backbones import ViT, ViTConfig
from poolax.backbones._vit import patchify
from poolax.training.records import fingerprint
from poolax.training.step import Progress, Trainer, epoch_batches, no_progress, put, stack, take


def pretrain_masked_patches(
    config: ViTConfig,
    images: Float[np.ndarray, "N h w c"],
    *,
    preprocess=None,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    hidden_fraction: float = 0.5,
    seed: int = 0,
    out: epath.PathLike | None = None,
    checkpoint_every: int = 20,
    progress: Progress = no_progress,
) -> ViT:
    """Pretrain a Vision Transformer to reconstruct hidden patches from the others.

    Half of the patches (``hidden_fraction``) are replaced by a learned mask token, and the mean
    squared error of their pixels, read linearly from their own token states, is minimised with AdamW
    on a cosine schedule. No label is seen, and the loss reads patch tokens one by one, so that no
    pooler is favoured; the CLS token is attended to, but its output enters no loss.

    Args:
        config: Sizes; ``use_mask_token`` has to be set.
        images: Raw images, shape ``(N, h, w, c)``.
        preprocess: Maps raw images to the model's input; kept in the model.
        epochs: Passes over the images.
        batch_size: Images a step.
        learning_rate: Peak learning rate.
        hidden_fraction: Fraction of the patches that is hidden, between 0 and 1.
        seed: Sets initialisation, batch order and hidden patches.
        out: Folder for checkpoints; a run that finds one there goes on from it, and gives what an
            uninterrupted run would have given. ``None`` writes nothing.
        checkpoint_every: Epochs between checkpoints.
        progress: Called with a description, the number of epochs done and the total.

    Returns:
        The model.

    Raises:
        ValueError: for numbers out of range, a model without a mask token, images of the wrong shape,
            or a checkpoint in ``out`` of another configuration or other images.
        FloatingPointError: if the loss does not stay finite.

    Example:
        >>> import numpy as np
        >>> from poolax.backbones import ViTConfig
        >>> sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}
        >>> config = ViTConfig(4, 2, 1, **sizes, use_mask_token=True)
        >>> images = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
        >>> vit = pretrain_masked_patches(config, images, epochs=1, batch_size=4)
        >>> vit(images).states.shape
        (6, 5, 8)
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_count("checkpoint_every", checkpoint_every)
    check_number("learning_rate", learning_rate, above=0.0)
    check_number("hidden_fraction", hidden_fraction, above=0.0, below=1.0)
    if not config.use_mask_token:
        raise ValueError("config: expected use_mask_token=True for pretraining, got False")
    inputs = np.asarray(images if preprocess is None else preprocess(images))
    expected = (config.image_size, config.image_size, config.num_channels)
    if inputs.ndim != 4 or inputs.shape[1:] != expected or len(inputs) == 0:
        raise ValueError(f"images: expected shape {('N', *expected)}, got {inputs.shape}")

    model_key, head_key = jax.random.split(jax.random.key(seed))
    vit = ViT.init(config, model_key, preprocess)
    kernel = jax.nn.initializers.lecun_normal()(head_key, (config.width, config.patch_dim))
    params = {
        "backbone": vit.params,
        "reconstruction": {"kernel": kernel, "bias": jnp.zeros(config.patch_dim)},
    }
    num_hidden = max(1, round(hidden_fraction * config.num_patches))
    total_steps = epochs * math.ceil(len(inputs) / batch_size)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, total_steps // 20), total_steps
    )
    optimizer = optax.adamw(schedule, weight_decay=0.01)
    trainer = Trainer(_reconstruction_loss(vit, num_hidden), optimizer)
    state = (params, optimizer.init(params))

    recipe = {
        "config": dataclasses.asdict(config),
        "objective": "masked patch reconstruction",
        "cls_token_trained": False,
        "num_images": len(inputs),
        "inputs": fingerprint(inputs),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "hidden_fraction": hidden_fraction,
        "seed": seed,
    }
    start = 0 if out is None else latest_step(out) or 0
    if out is not None and start:
        saved = checkpoint_metadata(out)
        differing = [name for name, value in recipe.items() if saved.get(name) != value]
        if differing:
            raise ValueError(
                f"out: expected a checkpoint with this configuration in {out}, got one that differs "
                f"in {', '.join(differing)}"
            )
        state = restore_checkpoint(out, like=state)
    data = put({"images": inputs[None]})
    state = put(stack([stack([state])]))
    for epoch in range(start, epochs):
        batches = stack([epoch_batches(seed, epoch, len(inputs), batch_size)])
        state, loss = trainer.epoch(state, data, batches)
        if not np.isfinite(loss).all():
            raise FloatingPointError(
                f"pretraining diverged in epoch {epoch} at learning rate {learning_rate:g}"
            )
        progress("pretraining", epoch + 1, epochs)
        done = epoch + 1
        if out is not None and (done % checkpoint_every == 0 or done == epochs):
            save_checkpoint(out, done, _only_run(state), metadata=recipe, keep=1)
    params = jax.tree.map(jnp.asarray, _only_run(state)[0])
    return dataclasses.replace(vit, params=params["backbone"])


def _only_run(state):
    return jax.tree.map(lambda leaf: leaf[0, 0], take(state))


def _reconstruction_loss(vit, num_hidden):
    num_patches = vit.config.num_patches

    def loss(params, data, indices, keys):
        images = data["images"][indices]
        scores = jax.vmap(lambda key: jax.random.uniform(key, (num_patches,)))(keys)
        ranks = jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)
        hidden = ranks < num_hidden
        embeddings, _ = vit.embed(params["backbone"], images, hidden=hidden)
        states = vit.encode(params["backbone"], embeddings).states[:, 1:]
        head = params["reconstruction"]
        error = states @ head["kernel"] + head["bias"] - patchify(images, vit.config.patch_size)
        return jnp.sum(jnp.mean(jnp.square(error), axis=-1) * hidden, axis=-1) / num_hidden

    return loss
