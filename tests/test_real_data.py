"""What the theory says, on real images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, POOLERS, PUBLISHED

from poolax import blocks, bounds, empirical
from poolax._patches import patchify


@pytest.fixture(scope="module")
def patches(test_data):
    """Patch tokens of CIFAR-10 images in [0, 1]: 16 tokens of 8 x 8 x 3 values."""
    images = np.load(test_data / "cifar10" / "test.npz")["image"][:200]
    return patchify(jnp.asarray(images, jnp.float32) / 255, 8)


def test_the_cube_holds_for_pixels(patches):
    domain, cube = bounds.domain_of(patches), bounds.cube(1.0, patches.shape[-1])
    assert 0.5 * cube.radius < domain.radius <= cube.radius * (1 + 1e-4)
    assert domain.spread <= cube.spread * (1 + 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sandwich_at_real_images(patches, kind):
    domain = bounds.domain_of(patches)
    for name in PUBLISHED:
        model = blocks.TBM(4, POOLERS[name], KINDS[kind])
        variables = model.init(jax.random.key(0), patches[0])
        measured = jax.jit(
            lambda tokens, m=model, v=variables: jax.lax.map(
                lambda x: empirical.jacobian_norm(lambda x: m.apply(v, x), x), tokens
            )
        )(patches[:16])
        sharp, published = (
            bounds.tbm(
                model,
                variables,
                num_tokens=patches.shape[1],
                radius=domain.radius,
                spread=domain.spread,
                method=method,
            ).lipschitz
            for method in ("sharp", "published")
        )
        assert 0 < measured.max() <= sharp <= published
