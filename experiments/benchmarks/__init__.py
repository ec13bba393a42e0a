"""One module for each suite of ``benchmark.py``."""
