"""Notices: what one process has revoked is revoked in all of them that share a store."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque

from bbio.cluster.control import Control, Kind, Notice, check_notice
from bbio.errors import SyncError
from bbio.server.gateway import Gateway
from bbio.server.tasks import Tasks

logger = logging.getLogger("bbio")

# Notices that are known again, should they come once more by another store.
MAX_KNOWN = 1_000


class Notices:
    """Notices from and to the other processes of an application.

    Parameters:
        gateway: does what a notice says.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._controls: list[Control] = []
        self._known: deque[str] = deque(maxlen=MAX_KNOWN)
        self._tasks = Tasks()

    def open(self) -> None:
        """Hear what other processes tell. Called once the stores have started."""
        for runtime in self._gateway.registry.values():
            control = runtime.log.control
            if control is not None and control not in self._controls:
                self._controls.append(control)
                control.add(self.hear)

    async def close(self) -> None:
        """Hear nothing more. Called before the stores stop."""
        while self._controls:
            self._controls.pop().remove(self.hear)
        await self._tasks.close()

    async def tell(self, kind: Kind, **fields: str | None) -> int:
        """Do something here, and have all other processes do it; return of how many sockets it was here.

        Parameters:
            kind: what is to be done.
            fields: the other fields of a `Notice`.

        Raises:
            ValueError: they are too long.
            SyncError: a store cannot be reached, so that not all other processes hear of it, or a layer refuses a
                client; what could be done was done.
        """
        notice = Notice(secrets.token_hex(8), kind, **fields)
        check_notice(notice)
        self._known.append(notice.id)
        doing = asyncio.ensure_future(self._do(notice))
        telling = (each.tell(notice, self.hear) for each in self._controls)
        outcomes = await asyncio.gather(doing, *telling, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return doing.result()

    def hear(self, notice: Notice | None) -> None:
        """Do what another process has told of; ask everybody again where that is not known."""
        if notice is None:
            logger.warning("notices of other processes were missed: permissions are looked at again")
            for subscribers in self._gateway.subscribers.values():
                subscribers.recheck_soon()
        elif notice.id not in self._known:
            self._known.append(notice.id)
            self._tasks.spawn(self._do_safely(notice))

    async def _do_safely(self, notice: Notice) -> None:
        try:
            await self._do(notice)
        except Exception:
            logger.exception("what another process has told could not be done: %s", notice.kind)

    async def _do(self, notice: Notice) -> int:
        gateway = self._gateway
        if notice.kind != "revoke":
            return await self._move(notice)
        if notice.channel is not None:
            return gateway.revoke_channel(notice.channel or None, notice.backend)
        return gateway.revoke(subject=notice.user, session=notice.session)

    async def _move(self, notice: Notice) -> int:
        """Let the sockets of a user into a channel, or out of it."""
        memberships, channel = self._gateway.memberships, notice.channel or None
        sockets = [
            socket
            for socket in self._gateway.identities.of_user(notice.user or "")
            if socket.runtime.name == notice.backend
        ]
        failure: SyncError | None = None
        for socket in sockets:
            if notice.kind == "leave":
                memberships.let_go(socket, channel)
                continue
            try:
                await memberships.let_in(socket, channel)
            except SyncError as err:
                failure = err  # of this one; others may be let in
        if failure is not None:
            raise failure
        return len(sockets)
