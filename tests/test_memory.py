"""Processes that compile many programs."""

import subprocess
import sys

import pytest

# Mappings that are taken by compiled programs stay below the limit, and programs still run.
MANY = """
import mmap, pathlib, sys
from poolax.startup import keep_programs_few
import jax, jax.numpy as jnp

double = jax.jit(lambda x: 2 * x)
double(1.0)
keep_programs_few()
assert double._cache_size() == 1
# Mappings of one page each; next ones differ in what may be done with them, so as not to be joined.
kept = [mmap.mmap(-1, 4096, prot=mmap.PROT_READ | (mmap.PROT_WRITE * (i % 2))) for i in range(25_000)]
keep_programs_few()
assert double._cache_size() == 0
assert double(1.0) == 2
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are limited on Linux")
def test_programs_are_dropped_before_mappings_run_out():
    subprocess.run([sys.executable, "-c", MANY], check=True)
