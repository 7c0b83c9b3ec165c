"""Sessions: who a client is, by a cookie of bbio's own or by that of another framework."""

from bbio.builtin.sessions.django import DjangoSessions
from bbio.builtin.sessions.memory import MemorySessions
from bbio.builtin.sessions.postgres import PostgresSessions
from bbio.builtin.sessions.redis import RedisSessions
from bbio.builtin.sessions.sessions import Sessions
from bbio.builtin.sessions.signed import AiohttpSessions, FlaskSessions, StarletteSessions
from bbio.builtin.sessions.sqlite import SQLiteSessions

__all__ = [
    "AiohttpSessions",
    "DjangoSessions",
    "FlaskSessions",
    "MemorySessions",
    "PostgresSessions",
    "RedisSessions",
    "SQLiteSessions",
    "Sessions",
    "StarletteSessions",
]
