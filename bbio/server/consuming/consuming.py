"""All consumers of an application in this process: made known to their ledgers, started, and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from inspect import iscoroutinefunction

from bbio.consumers import Consume, Consumer
from bbio.errors import ConfigurationError
from bbio.log import Ledger
from bbio.registry import Registry
from bbio.runtime import Runtime
from bbio.server.consuming.lag import Lag
from bbio.server.consuming.worker import Worker, name_of_process
from bbio.streams import BACKEND_WIDE, Position, channel_stream

logger = logging.getLogger("bbio")


class Consuming:
    """Runs consumers.

    Parameters:
        registry: the served backends.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._workers: list[Worker] = []
        self._functions: list[Consume] = []
        self._lag: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Return whether one works on an event at this moment."""
        return any(worker.is_busy for worker in self._workers)

    async def open(self, consumers: Iterable[Consumer], *, works: bool = True) -> None:
        """Make consumers known: they get what is written from now on. Called once the backends have started.

        Parameters:
            consumers: the consumers.
            works: whether this process works for them, where no other one does.

        Raises:
            ConfigurationError: one cannot be; the text says how to mend it.
            SyncError: a database cannot be reached.
        """
        process = name_of_process()
        runtimes: dict[str, Runtime] = {}
        for consumer in consumers:
            runtime, ledger = self._found(consumer)
            runtimes[runtime.name] = runtime
            await self._register(consumer, runtime, ledger)
            self._workers.append(Worker(consumer, runtime, ledger, process))
            self._functions.append(consumer.function)
        if not works:
            self._workers.clear()
        for worker in self._workers:
            await worker.start()
        if runtimes:
            self._lag = asyncio.ensure_future(Lag(runtimes.values()).run())

    async def close(self, seconds: float) -> None:
        """Begin no event more, finish what was begun, and give the leases back. Called before the backends stop.

        Parameters:
            seconds: the time for that.
        """
        workers, self._workers = self._workers, []
        if self._lag is not None:
            self._lag.cancel()
            await asyncio.gather(self._lag, return_exceptions=True)
            self._lag = None
        await asyncio.gather(*(worker.close(seconds) for worker in workers))
        await self._close_functions()

    async def _close_functions(self) -> None:
        """Close functions that are objects with connections of their own, such as webhooks."""
        functions, self._functions = self._functions, []
        for function in functions:
            if iscoroutinefunction(aclose := getattr(function, "aclose", None)):
                try:
                    await aclose()
                except Exception:
                    logger.exception("consumers: %r cannot be closed", function)

    def _found(self, consumer: Consumer) -> tuple[Runtime, Ledger]:
        """Return the backend of a consumer, and its ledger."""
        if consumer.backend not in self._registry:
            served = ", ".join(self._registry) or "none"
            raise ConfigurationError(
                f"consumer({consumer.name!r}): there is no backend {consumer.backend!r}; served: {served}"
            )
        runtime = self._registry[consumer.backend]
        ledger = runtime.log.consumers
        if ledger is None:
            raise ConfigurationError(
                f"consumer({consumer.name!r}): {type(runtime.log).__qualname__} cannot keep how far consumers are; "
                f"give {consumer.backend} a SQLiteStore or a PostgresStore, or the log a Ledger as `consumers`"
            )
        if not ledger.is_durable and consumer.is_durable:
            raise ConfigurationError(
                f"consumer({consumer.name!r}): {type(runtime.log).__qualname__} is in memory, so what is to happen at "
                f"least once would be lost with the process; give {consumer.backend} a SQLiteStore or a PostgresStore"
            )
        if not ledger.is_durable:
            logger.info(
                "consumer %s: the events of %s are in memory; what is not handled when this process ends is lost",
                consumer.name,
                consumer.backend,
            )
        return runtime, ledger

    async def _register(self, consumer: Consumer, runtime: Runtime, ledger: Ledger) -> None:
        """Have a ledger know a consumer that is new."""
        for state in await ledger.states():
            if state.name == consumer.name:
                if state.channel != consumer.channel:
                    raise ConfigurationError(
                        f"consumer({consumer.name!r}): it was for {_shown(state.channel)}, and is for "
                        f"{_shown(consumer.channel)} now; give it another name, or have it begin anew: "
                        f"bbio consumers MODULE:APP forget {consumer.name}"
                    )
                return
        log, channel = runtime.log, consumer.channel
        tops = await (log.tops() if channel is None else log.positions([channel_stream(channel or None), BACKEND_WIDE]))
        epoch = tops.pop("").epoch if channel is None else ""
        if consumer.since == "start":
            # Those of all channels begin by themselves where their streams do.
            tops = {} if channel is None else {name: Position(top.epoch, 0) for name, top in tops.items()}
        await ledger.register(consumer.name, channel, epoch, tops)


def _shown(channel: str | None) -> str:
    return "all channels" if channel is None else f"the channel {channel!r}"
