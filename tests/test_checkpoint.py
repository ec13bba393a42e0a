import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poolax._checkpoint import latest_step
from poolax._paths import absolute_path
from poolax.training import checkpoint_metadata, restore_checkpoint, save_checkpoint
from poolax.training._devices import put


def tree():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    return params, optax.adam(1e-3).init(params)


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_round_trip_with_structure(tmp_path):
    save_checkpoint(tmp_path, 3, tree(), metadata={"width": 3, "names": ["a", "b"]})
    assert_equal(restore_checkpoint(tmp_path, like=tree()), tree())
    abstract = jax.eval_shape(tree)
    assert_equal(restore_checkpoint(tmp_path, like=abstract), tree())
    assert checkpoint_metadata(tmp_path) == {"width": 3, "names": ["a", "b"]}


def test_relative_and_home_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", 1, {"w": jnp.ones(2)})
    np.testing.assert_array_equal(restore_checkpoint("run")["w"], np.ones(2))


def test_buckets_are_left_alone():
    assert str(absolute_path("gs://bucket/run")) == "gs://bucket/run"
    assert str(absolute_path("~/run")) == os.path.expanduser("~/run")


def test_steps(tmp_path):
    assert latest_step(tmp_path / "none") is None
    for step in (1, 2, 5):
        save_checkpoint(tmp_path, step, {"w": jnp.full(2, float(step))}, keep=2)
    assert latest_step(tmp_path) == 5
    assert restore_checkpoint(tmp_path)["w"][0] == 5
    assert restore_checkpoint(tmp_path, step=2)["w"][0] == 2
    with pytest.raises(ValueError, match=r"step: expected one of \[2, 5\] in .*, got 1"):
        restore_checkpoint(tmp_path, step=1)
    with pytest.raises(ValueError, match=r"step: expected above 5, the latest in .*, got 5"):
        save_checkpoint(tmp_path, 5, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"step: expected a whole number >= 0, got -1"):
        save_checkpoint(tmp_path, -1, {"w": jnp.ones(2)})


def test_a_checkpoint_that_does_not_match_is_refused(tmp_path):
    save_checkpoint(tmp_path, 0, {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    for like, found in (
        (
            {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3)},
            r"'w': saved float32\[2, 3\], got bfloat16",
        ),
        ({"w": jnp.ones((3, 2)), "b": jnp.ones(3)}, r"'w': .*got float32\[3, 2\]"),
        ({"w": jnp.ones((2, 3))}, r"'b': saved float32\[3\], got nothing"),
        ({"w": jnp.ones((2, 3)), "b": jnp.ones(3), "c": jnp.ones(1)}, r"'c': saved nothing"),
    ):
        with pytest.raises(ValueError, match=r"like: expected the tree saved in .*" + found):
            restore_checkpoint(tmp_path, like=like)


def test_no_checkpoint(tmp_path):
    for read in (restore_checkpoint, checkpoint_metadata):
        with pytest.raises(ValueError, match=r"directory: expected one with a checkpoint, got"):
            read(tmp_path)


RESTORE = """
import sys, jax, numpy as np
assert jax.device_count() == 1
import orbax.checkpoint as ocp
manager = ocp.CheckpointManager(sys.argv[1])
plain = manager.restore(manager.latest_step())
assert plain.metadata == {"width": 3}, plain.metadata
np.testing.assert_array_equal(plain.state["w"], np.arange(6.0).reshape(2, 3))

from poolax.training import restore_checkpoint
like = {"w": jax.ShapeDtypeStruct((2, 3), np.float32)}
restored = restore_checkpoint(sys.argv[1], like=like)
np.testing.assert_array_equal(restored["w"], plain.state["w"])
assert restored["w"].sharding.device_set == {jax.devices()[0]}
"""


def test_saved_on_four_devices_restored_on_one(tmp_path):
    assert jax.local_device_count() == 4
    replicated = put({"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)})
    assert len(replicated["w"].sharding.device_set) == 4
    first = jax.tree.map(lambda leaf: leaf[0], replicated)
    save_checkpoint(tmp_path / "run", 0, first, metadata={"width": 3})
    run_on_one_device(RESTORE, tmp_path / "run")


def test_restored_to_a_sharding(tmp_path):
    save_checkpoint(tmp_path, 0, {"w": jnp.arange(8.0)})
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    for like in (None, {"w": jax.ShapeDtypeStruct((8,), jnp.float32)}):
        restored = restore_checkpoint(tmp_path, like=like, sharding=sharding)
        assert restored["w"].sharding == sharding
        np.testing.assert_array_equal(restored["w"], np.arange(8.0))


def run_on_one_device(program, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PJRT_NPROC")}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    subprocess.run(command, check=True, env={**environment, "JAX_PLATFORMS": "cpu"}, timeout=300)
