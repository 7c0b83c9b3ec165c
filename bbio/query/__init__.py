"""Queries: their language, the order of values, and work in steps."""

from bbio.query.query import Page, Query, QueryLimits

__all__ = ["Page", "Query", "QueryLimits"]
