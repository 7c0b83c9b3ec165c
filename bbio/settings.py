"""Settings: every variable of the environment that bbio reads, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

import attrs

from bbio.errors import ConfigurationError

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LAST_PORT = 65_535


def _origins(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _secrets(text: str) -> list[str]:
    return text.split()


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of the environment; a variable that is not set, or empty, leaves the default.

    Attributes:
        host: `BBIO_HOST`, the address to listen on.
        port: `BBIO_PORT`, the TCP port as text, see `port_number`; 0 takes a free one.
        log_level: `BBIO_LOG_LEVEL`, one of `LOG_LEVELS`.
        cors_origins: `BBIO_CORS_ORIGINS`, origins of other sites that may connect, with commas or spaces between them.
        database_url: `BBIO_DATABASE_URL`, the database of `store_from_env` and of `PostgresStore()`.
        secret_key: `BBIO_SECRET_KEY`, the secrets of `Session`, with spaces between them; the first one signs.
        consumers: `BBIO_CONSUMERS`, `yes` or `no`: whether a server works for consumers, see `works`.

    Example:
        >>> Settings.from_env({"BBIO_CORS_ORIGINS": "https://a.test, https://b.test"}).cors_origins
        ['https://a.test', 'https://b.test']
    """

    host: str = "127.0.0.1"
    port: str = "3000"
    log_level: str = "info"
    cors_origins: list[str] = attrs.field(default="", converter=_origins)
    database_url: str = ""
    secret_key: list[str] = attrs.field(default="", converter=_secrets)
    consumers: str = "yes"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings of the environment.

        Parameters:
            environ: the variables; `os.environ` by default.
        """
        environ = os.environ if environ is None else environ
        texts = {field.name: environ.get(variable(field.name), "") for field in attrs.fields(cls)}
        return cls(**{name: text for name, text in texts.items() if text.strip()})

    def works(self) -> bool:
        """Return whether a server works for consumers; else only `bbio work` does.

        Raises:
            ConfigurationError: `BBIO_CONSUMERS` is neither `yes` nor `no`.
        """
        if self.consumers not in ("yes", "no"):
            raise ConfigurationError(f"BBIO_CONSUMERS is {self.consumers!r}; it is yes, or no")
        return self.consumers == "yes"

    def port_number(self) -> int:
        """Return the TCP port.

        It is read late: Kubernetes sets `BBIO_PORT` to a URL where a service is called bbio, and who names a port
        elsewhere does not care.

        Raises:
            ConfigurationError: `BBIO_PORT` is not a port.
        """
        if not (self.port.isascii() and self.port.isdecimal() and int(self.port) <= LAST_PORT):
            raise ConfigurationError(f"BBIO_PORT is {self.port!r}; a port is a number from 0 to {LAST_PORT}")
        return int(self.port)


def variable(name: str) -> str:
    """Return the name of the variable that holds a setting."""
    return f"BBIO_{name.upper()}"
