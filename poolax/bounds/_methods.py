"""Which bounds there are."""

# From the largest to the smallest.
METHODS = ("published", "sharp", "tight")
# Those that this library proves, known wherever one of them is.
PROVED = METHODS[1:]
