"""The middleware stack: layers, what runs them, and what happens once."""

from bbio.stack.stack import Middleware, Stack

__all__ = ["Middleware", "Stack"]
