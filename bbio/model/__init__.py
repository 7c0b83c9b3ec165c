"""Models: the attrs class of a backend, its fields, and how they travel."""
