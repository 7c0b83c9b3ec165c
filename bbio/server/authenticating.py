"""An `auth`: a client says anew who it is, on a connection that stays."""

from __future__ import annotations

from bbio import protocol
from bbio.errors import Forbidden, SyncError, Unauthorized
from bbio.requests import Request
from bbio.server.connection import ClientSocket, Key
from bbio.server.exchange import Exchange, ended
from bbio.server.subscribers import Subscribers


class AuthExchange(Exchange, kw_only=True):
    """Layers are asked who a client is with its new token; then its subscriptions are looked at again, or resumed.

    Parameters:
        auth: the JSON of the client's new Socket.IO `auth`.
        subscribers: those of the backend.
    """

    auth: bytes
    subscribers: Subscribers

    @property
    def key(self) -> Key:
        return ("listen", self.socket.sid)

    async def work(self) -> None:
        try:
            while True:
                revocations = self.socket.revocations
                tried = self.socket.try_auth(self.auth)
                failure = await self._try(tried)
                # What was found out before a revocation undoes none.
                if failure is not None or revocations == self.socket.revocations:
                    break
            if failure is None:
                await self._take(tried)
            else:
                self.refuse(failure)
        except BaseException as err:
            self.fail(err)
        self.finish()

    async def _try(self, tried: ClientSocket) -> SyncError | None:
        """Ask layers who a client is; return why it is not to be that."""
        socket = self.socket
        if socket.is_revoked and socket.has_same_auth(tried):
            return ended()
        failure = await self._ask(tried)
        if isinstance(failure, Unauthorized) or (failure is not None and failure.code >= 500):
            return failure
        identity, before = tried.identity, socket.identity
        if identity is None:
            return failure or Unauthorized("this token is nobody's: no layer of the backend knows it")
        if socket.is_revoked and not await self._is_proven(tried):
            return ended()  # it is known by what was revoked, such as a cookie, and not by the new token
        if before is not None and not before.is_of_same_user(identity):
            return Forbidden("this token is another user's: connect again")
        return None

    async def _ask(self, tried: ClientSocket) -> SyncError | None:
        """Ask layers who a client is; return the last one's refusal."""
        socket, failure = self.socket, None
        # A layer may refuse a channel before another one knows who asks.
        for channel in (*socket.channels, None):
            self.req = Request("read", None, {}, socket.backend, channel, tried, event="listen")
            failure, _ = await self.exchanges.registry.admit(socket.runtime, self.req)
            if tried.identity is not None or isinstance(failure, Unauthorized) or (failure and failure.code >= 500):
                break
        return failure

    async def _is_proven(self, tried: ClientSocket) -> bool:
        """Return whether it is the new token that says who a client is: without it layers do not find the same."""
        if not tried.has_read_auth:
            return False
        auth = {name: value for name, value in protocol.decode(self.auth).items() if name != "token"}
        without = self.socket.try_auth(protocol.encode(auth) if auth else None)
        await self._ask(without)
        assert tried.identity is not None, "it was found"
        return without.identity is None or not tried.identity.is_same(without.identity)

    async def _take(self, tried: ClientSocket) -> None:
        socket, permissions = self.socket, self.subscribers.permissions
        if socket.left or self.replied:
            return
        was_suspended = socket.is_suspended
        socket.take_auth(tried)
        if was_suspended:
            permissions.resume(socket)
        else:
            await permissions.recheck_socket(socket)
            if socket.is_suspended:
                self.refuse(ended())
                return
        expires = None if socket.identity is None else socket.identity.expires
        self.reply(protocol.auth_reply(None if expires is None else max(expires - socket.now(), 0.0)))
