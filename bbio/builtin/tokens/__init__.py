"""Tokens that say who a client is: signed ones, and those that only their issuer can check."""

from bbio.builtin.tokens.token import Token

__all__ = ["Token"]
