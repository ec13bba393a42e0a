"""Token states of a frozen backbone: made, kept and read."""
