"""Advice on poolers: what is run, what is chosen, and what else is to be seen."""
