"""What a record is made with: command, versions, machine and state of the source."""

import functools
import pathlib
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import jax

_PACKAGES = ("poolax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@functools.cache
def environment() -> dict[str, Any]:
    """Command, versions, machine and state of the source, for a record."""
    return {
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "devices": _devices(),
        "git": _git_state(),
    }


def _devices():
    """Devices of this process, and how many processes have as many."""
    found = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    count = jax.process_count()
    return found if count == 1 else f"{found} in each of {count} processes"


def _git_state():
    """Commit of the checkout that poolax runs from, ``+`` if it is changed; None outside of one."""
    folder = pathlib.Path(__file__).parents[1]

    def git(*arguments):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A virtual environment inside some other checkout is not a checkout of poolax.
        git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", str(folder)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
