"""Reading checkpoints: what is not what was saved is refused."""

import contextlib
import dataclasses
import errno
import logging
import os
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import PyTree

from poolax._checkpoint._checksums import content_problem, json_sha256, structure_problem
from poolax._checkpoint._orbax import (
    Manager,
    checkpoint_steps,
    open_manager,
    read_json,
    read_state,
    read_structure,
)
from poolax._files import DamagedFileError, damaged, system_code
from poolax._paths import absolute_path
from poolax._processes import place

# What Orbax and the readers below it make of files whose content is damaged.
_CONTENT = (
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, NotImplementedError),
    *(AssertionError, EOFError, OverflowError, FileNotFoundError),
)
_log = logging.getLogger(__name__)


def restore_checkpoint(
    directory: epath.PathLike,
    *,
    like: PyTree | None = None,
    step: int | None = None,
    sharding: jax.sharding.Sharding | None = None,
    cast: bool = False,
) -> PyTree:
    """Restore a tree of arrays, on any number of devices.

    The arrays are compared with the checksums that they were saved with.

    Args:
        directory: As for :func:`save_checkpoint`.
        like: Tree of arrays or ``jax.ShapeDtypeStruct`` with the structure, shapes and dtypes that
            are expected; ``None`` restores what is there as nested dictionaries and lists.
        step: Which checkpoint; ``None`` for the newest.
        cast: Whether arrays are cast to the dtypes of ``like`` as they are read; else those have to
            agree.
        sharding: Where the arrays go; ``None`` puts them where ``like`` has them, else on the default
            device, or gives NumPy arrays if there is no ``like``.

    Returns:
        The tree.

    Raises:
        ValueError: if there is no such checkpoint, it does not match ``like``, or it is damaged.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from poolax.training import save_checkpoint
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_checkpoint(directory, 1, (jnp.ones(2),))
        ...     restore_checkpoint(directory, like=(jax.ShapeDtypeStruct((2,), jnp.float32),))
        (Array([1., 1.], dtype=float32),)
    """
    with open_checkpoint(directory, step=step) as saved:
        return saved.restore(like, sharding=sharding, cast=cast)


def checkpoint_metadata(directory: epath.PathLike, *, step: int | None = None) -> dict[str, Any]:
    """The configuration that was saved beside the arrays.

    Args:
        directory: As for :func:`save_checkpoint`.
        step: Which checkpoint; ``None`` for the newest.

    Returns:
        The metadata.

    Raises:
        ValueError: if there is no such checkpoint, or it is damaged.
    """
    return _verified_json(directory, _find(directory, step))[0]


@contextlib.contextmanager
def open_checkpoint(
    directory: epath.PathLike, *, step: int | None = None
) -> Iterator["SavedCheckpoint"]:
    """A checkpoint whose parts are read one after the other.

    Args:
        directory: As for :func:`save_checkpoint`.
        step: Which checkpoint; ``None`` for the newest.

    Yields:
        The checkpoint.

    Raises:
        ValueError: if there is no such checkpoint, or its JSON is damaged.
    """
    step = _find(directory, step)
    metadata, expected = _verified_json(directory, step)
    if expected is None:
        _log.info("checkpoint %d in %s has no checksums: damage would not be noticed", step, directory)
    with open_manager(absolute_path(directory)) as manager:
        yield SavedCheckpoint(directory, step, metadata, expected, manager)


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of a saved array, also of 64 bits where JAX has none."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is open for reading.

    Attributes:
        directory: Where it stands.
        step: Its step.
        metadata: The configuration that was saved beside the arrays.
    """

    directory: epath.PathLike
    step: int
    metadata: dict[str, Any]
    _expected: dict[str, Any] | None
    _manager: Manager

    def structure(self) -> PyTree:
        """Shapes and dtypes of what was saved, a tree of :class:`ArraySpec`.

        Raises:
            DamagedFileError: if it cannot be read or is not what was saved.
        """
        with _content(self.directory, self.step):
            saved = read_structure(self._manager, self.step)
            tree = jax.tree.map(lambda leaf: ArraySpec(tuple(leaf.shape), leaf.dtype), saved)
            self._refuse(self._expected and structure_problem(self._expected, tree))
        return tree

    def read(self, like: PyTree | None = None, *, cast: bool = False) -> PyTree:
        """The tree on the host, compared with its checksums.

        Args:
            like: What is expected; ``None`` reads nested dictionaries and lists.
            cast: Whether dtypes may differ from those of ``like``, which are not cast here.

        Returns:
            The tree, of NumPy arrays, in the structure of ``like``.

        Raises:
            ValueError: if it does not match ``like``.
            DamagedFileError: if it cannot be read or is not what was saved.
        """
        structure = self.structure()
        if like is not None:
            _check_match(structure, like, self.directory, check_dtype=not cast)
        with _content(self.directory, self.step):
            tree = read_state(self._manager, self.step)
            self._refuse(self._expected and content_problem(self._expected, tree))
        if like is None:
            return tree
        found = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        return jax.tree.map_with_path(lambda path, _: found[_name(path)], like)

    def restore(
        self,
        like: PyTree | None = None,
        *,
        sharding: jax.sharding.Sharding | None = None,
        cast: bool = False,
    ) -> PyTree:
        """The tree on devices; arguments, result and errors as of :func:`restore_checkpoint`."""
        leaves, structure = jax.tree.flatten(self.read(like, cast=cast))
        if like is None and sharding is None:
            return jax.tree.unflatten(structure, leaves)
        default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = [
            jax.ShapeDtypeStruct(
                jnp.shape(leaf),
                jnp.result_type(leaf),
                sharding=sharding or getattr(leaf, "sharding", None) or default,
            )
            for leaf in (leaves if like is None else jax.tree.leaves(like))
        ]
        for number, target in enumerate(wanted):
            # In place of the one on the host, of which there is never a second tree.
            leaves[number] = _placed(leaves[number], target)
        chex.assert_trees_all_equal_shapes_and_dtypes(leaves, wanted)
        return jax.tree.unflatten(structure, leaves)

    def _refuse(self, problem):
        if problem:
            raise _damaged(self.directory, self.step, problem)


def _placed(leaf, target):
    leaf = np.asarray(leaf)
    return place(leaf.astype(target.dtype, copy=False), target.sharding)


def _verified_json(directory, step):
    """Metadata and checksums of a checkpoint; ``None`` for the checksums of one that has none."""
    with _content(directory, step):
        metadata, expected = read_json(absolute_path(directory) / str(step))
        if expected is not None and expected["metadata"] != json_sha256(metadata):
            problem = "its metadata have another checksum than they were written with"
            raise _damaged(directory, step, problem)
    return metadata, expected


@contextlib.contextmanager
def _content(directory, step):
    """Tell what is raised for the content of a checkpoint as damage, and nothing else."""
    try:
        yield
    except _CONTENT as error:
        if isinstance(error, DamagedFileError):
            raise
        code = system_code(error)
        if code not in (None, errno.ENOENT):
            raise OSError(code, os.strerror(code), os.fspath(directory)) from error
        # A system that cannot read the files says so here.
        _read_all(absolute_path(directory) / str(step))
        raise _damaged(directory, step, str(error) or type(error).__name__) from error


def _read_all(folder):
    for child in folder.iterdir():
        if child.is_dir():
            _read_all(child)
        else:
            child.read_bytes()


def _damaged(directory, step, problem):
    remedy = f"restore another step, or remove {os.fspath(directory)}/{step} and make it again"
    return damaged(directory, f"checkpoint {step} is damaged: {problem}", remedy)


def _find(directory, step):
    steps = checkpoint_steps(directory)
    if not steps:
        raise ValueError(f"directory: expected one with a checkpoint, got {directory}")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise ValueError(f"step: expected one of {steps} in {directory}, got {step}")
    return step


def _check_match(saved, like, directory, *, check_dtype):
    """What would be cast, or come to another place, without a word."""
    expected, found = (
        {
            _name(path): (leaf.shape, leaf.dtype if check_dtype else None)
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for tree in (jax.tree.map(_spec, like), saved)
    )
    differing = [name for name in expected | found if expected.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"like: expected the tree saved in {directory}, which differs in {len(differing)} places, "
            f"first at {name!r}: saved {_format(found.get(name))}, got {_format(expected.get(name))}"
        )


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(leaf):
    dtype = leaf.dtype if isinstance(leaf, np.ndarray) else jnp.result_type(leaf)
    return ArraySpec(jnp.shape(leaf), dtype)


def _format(shape_and_dtype):
    if shape_and_dtype is None:
        return "nothing"
    shape, dtype = shape_and_dtype
    return f"{dtype or 'shape '}{list(shape)}"
