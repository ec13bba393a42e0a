"""Pretrained weights of others: from their names and layouts to ours."""
