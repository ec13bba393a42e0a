"""Sweeps: which heads there are, which are finished, and what is written of them."""
