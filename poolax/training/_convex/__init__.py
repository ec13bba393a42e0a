"""Linear heads trained to the end: the least of a convex loss, for all strengths of its penalty."""
