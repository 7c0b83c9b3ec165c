"""Stores and middleware that come with bbio. They use only what a user could."""

from bbio.builtin.cookies import CookieParser
from bbio.builtin.from_env import store_from_env
from bbio.builtin.logger import Logger
from bbio.builtin.memory import MemoryStore
from bbio.builtin.postgres import PostgresStore
from bbio.builtin.ratelimit import RateLimit
from bbio.builtin.session import Session
from bbio.builtin.sessions import (
    AiohttpSessions,
    DjangoSessions,
    FlaskSessions,
    MemorySessions,
    PostgresSessions,
    RedisSessions,
    Sessions,
    SQLiteSessions,
    StarletteSessions,
)
from bbio.builtin.sqlite import SQLiteStore
from bbio.builtin.tokens import Token
from bbio.builtin.webhooks import Webhook, WebhookRefused

__all__ = [
    "AiohttpSessions",
    "CookieParser",
    "DjangoSessions",
    "FlaskSessions",
    "Logger",
    "MemorySessions",
    "MemoryStore",
    "PostgresSessions",
    "PostgresStore",
    "RateLimit",
    "RedisSessions",
    "SQLiteSessions",
    "SQLiteStore",
    "Session",
    "Sessions",
    "StarletteSessions",
    "Token",
    "Webhook",
    "WebhookRefused",
    "store_from_env",
]
