"""Queries: their language, the order of values, and work in steps."""
