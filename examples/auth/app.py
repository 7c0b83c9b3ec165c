"""Notes for those who have logged in: two users with passwords, a log-out here, and one everywhere.

Run it with `python examples/auth/app.py`, after `pip install argon2-cffi`. It prints the passwords of ann and bob, new
ones at each start unless $ANN_PASSWORD and $BOB_PASSWORD are set. Visit http://127.0.0.1:3000 in two browsers, or in a
private window too, log in, and write. "Log out everywhere" ends what all other pages of the user may do, at once. Notes
and sessions are kept in the file auth.db.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
from aiohttp import web
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from bbio import App, Backend, Forbidden, Request, Unauthorized, Unavailable, before, field
from bbio.builtin import SQLiteSessions, SQLiteStore

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

USERS = ("ann", "bob")
FOLDER = Path(__file__).parent
# Characters of a password that are looked at: a hash takes time for each.
MAX_PASSWORD = 1_000

sessions = SQLiteSessions("auth.db")


class Passwords:
    """The passwords of users; only their hashes are kept."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._hashes: dict[str, str] = {}
        # Whoever guesses names must not learn from the time it takes whether there is such a user.
        self._of_nobody = self._hasher.hash(secrets.token_urlsafe())
        # Each hash takes 64 MiB and a processor, on purpose.
        self._turns = asyncio.Semaphore(2)

    def set(self, user: str, password: str) -> None:
        self._hashes[user] = self._hasher.hash(password)

    async def check(self, user: str, password: str) -> bool:
        """Return whether a user has this password."""
        if len(password) > MAX_PASSWORD:
            return False
        known = self._hashes.get(user, self._of_nobody)
        async with self._turns:
            try:
                return await asyncio.to_thread(self._hasher.verify, known, password) and user in self._hashes
            except VerificationError:
                return False


passwords = Passwords()


@attrs.define
class Note:
    text: str = attrs.field(validator=[attrs.validators.min_len(1), attrs.validators.max_len(500)])
    author: str = field(read_only=True, default="")
    id: str | None = None


class Notes(Backend):
    model = Note
    middleware = [sessions]
    store = SQLiteStore("auth.db")

    @before
    def require_user(self, req: Request) -> None:
        if req.user is None:
            raise Unauthorized("log in first")

    @before("create")
    def sign(self, req: Request[Note]) -> None:
        req.model.author = req.user

    @before("update", "patch", "delete")
    async def keep_to_ones_own(self, req: Request) -> None:
        assert self.store is not None
        found = await self.store.read(Request("read", {"id": req.id}))
        if found.models["author"] != req.user:
            raise Forbidden("this note is somebody else's")


async def login(request: web.Request) -> web.Response:
    """Begin a session, under a new id."""
    form = await request.post()
    user, password = str(form.get("name", "")), str(form.get("password", ""))
    if not await passwords.check(user, password):
        raise web.HTTPForbidden(text="the name or the password is wrong")
    response = web.json_response({"user": user})
    await sessions.login(response, {"user": user}, request)
    return response


async def logout(request: web.Request) -> web.Response:
    """End the session of this browser."""
    response = web.json_response({"user": None})
    await sessions.logout(response, request)
    return response


async def logout_everywhere(request: web.Request) -> web.Response:
    """End all sessions of the user, in all browsers."""
    user = (await sessions.load(request)).get("user")
    if user is not None:
        await sessions.revoke(user=user)
    return await logout(request)


async def me(request: web.Request) -> web.Response:
    return web.json_response({"user": (await sessions.load(request)).get("user")})


@web.middleware
async def say_unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 503 while sessions cannot be read or written."""
    try:
        return await handler(request)
    except Unavailable as err:
        raise web.HTTPServiceUnavailable(text=err.message) from err


app = App()
app.serve(Notes)
app.page("/", FOLDER / "index.html")

application = app.mount(web.Application(middlewares=[say_unavailable]))
application.add_routes(
    [
        web.post("/login", login),
        web.post("/logout", logout),
        web.post("/logout-everywhere", logout_everywhere),
        web.get("/me", me),
    ]
)


def main() -> None:
    for user in USERS:
        password = os.environ.get(f"{user.upper()}_PASSWORD") or secrets.token_urlsafe(9)
        passwords.set(user, password)
        print(f"the password of {user} is {password}")
    app.run(port=3000, application=application)


if __name__ == "__main__":
    main()
