"""Claims about poolers, and what records say of them."""
