"""Models: the attrs class of a backend, its fields, and what becomes of them on the wire."""
