"""Heads on token states: trained together on all devices, kept while they are."""
