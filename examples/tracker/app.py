"""An issue tracker: who is in a project sees its issues, and whoever leaves it sees them no more.

Run it with `python examples/tracker/app.py`, visit http://127.0.0.1:3000 in two browsers, or in a private window too,
and log in as ann, bob or eve. Projects, members and issues are kept in the file tracker.db. The members of a project
get a mail for each new issue: a file in the folder mails, or from the mail server that TRACKER_SMTP names, as
127.0.0.1:25.

Issues from elsewhere are imported with

    bbio import examples.tracker.app:app issues examples/tracker/issues.csv --migrate
"""

from __future__ import annotations

import asyncio
import os
import secrets
import smtplib
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web

from bbio import App, Backend, Forbidden, Middleware, Request, Unauthorized, before, field, visible
from bbio.builtin import Session, store_from_env
from bbio.events import Event

# A tracker for others than its readers has passwords, as docs/tutorial.md shows.
USERS = ("ann", "bob", "eve")

# With a key of its own at each start everybody has to log in again.
sessions = Session(os.environ.get("BBIO_SECRET_KEY") or secrets.token_urlsafe())


class LoggedIn(Middleware):
    """Admits those who have logged in, and the server itself, as for an import."""

    @before(bulk=True)
    def check(self, req: Request) -> None:
        if req.user is None and not req.is_trusted:
            raise Unauthorized("log in first")


@attrs.define
class Membership:
    """Somebody is in a project; a project is there as long as somebody is in it."""

    project: str
    user: str = attrs.field(validator=attrs.validators.in_(USERS))
    id: str | None = None


FIRST = [("garden", "ann"), ("garden", "bob"), ("kitchen", "ann"), ("kitchen", "eve")]


class Memberships(Backend):
    model = Membership
    middleware = [sessions, LoggedIn()]
    store = store_from_env(
        "tracker.db", models=[Membership(project, user, f"{project}-{user}") for project, user in FIRST]
    )

    # Whoever is let in or removed is asked again at once what they may see.
    follows = {"memberships": "user"}

    @visible
    async def of_own_projects(self, req: Request) -> Any:
        """Members see each other, and let others in; nobody lets themselves in, as that would be out of their scope."""
        return {"project": {"$in": await self.projects_of(req.user)}}

    @before("update", "patch")
    def keep(self) -> None:
        raise Forbidden("add a member, or remove one")

    async def projects_of(self, user: str) -> list[str]:
        """Return the projects that somebody is in."""
        assert self.store is not None
        found = await self.store.read(Request("read", {}, {"data": {"user": user}}))
        return [membership["project"] for membership in found.models]


memberships = Memberships()


@attrs.define
class Issue:
    title: str = attrs.field(validator=attrs.validators.min_len(1))
    project: str
    done: bool = False
    author: str = field(read_only=True, default="")


class Issues(Backend):
    model = Issue
    middleware = [sessions, LoggedIn()]
    store = store_from_env("tracker.db", index=["project"])
    follows = {"memberships": "user"}

    @visible
    async def of_own_projects(self, req: Request) -> Any:
        return {"project": {"$in": await memberships.projects_of(req.user)}}

    @before("create", bulk=True)
    def sign(self, req: Request[Issue]) -> None:
        if not req.is_trusted:  # an import says who the author is
            req.model.author = req.user


async def login(request: web.Request) -> web.Response:
    """Believe whoever says to be one of the users."""
    form = await request.post()
    if form.get("name") not in USERS:
        raise web.HTTPForbidden(text="nobody has this name")
    response = web.HTTPSeeOther("/")
    sessions.save(response, {"user": form["name"]}, request)
    raise response


async def logout(request: web.Request) -> web.Response:
    response = web.HTTPSeeOther("/")
    sessions.clear(response)
    raise response


async def me(request: web.Request) -> web.Response:
    return web.json_response({"user": sessions.load(request).get("user"), "users": USERS})


app = App()
app.serve(memberships, Issues)


@app.consumer("mailer", backend="issues")
async def send_mails(event: Event[Issue]) -> None:
    """Send a mail for each new issue to all members of its project but its author."""
    if event.method != "create":
        return
    project, author = event.model["project"], event.model["author"]
    members = await app.backends[Memberships].query({"project": project, "limit": 100})
    for member in {membership.user for membership in members.models} - {author}:
        mail = EmailMessage()
        mail["From"], mail["To"] = "tracker@example.org", f"{member}@example.org"
        mail["Subject"] = f"{project}: {event.model['title']}"
        # Should it be sent twice, the reader sees one.
        mail["Message-ID"] = f"<{event.model['id']}-{member}@example.org>"
        mail.set_content(f"{author} has reported: {event.model['title']}")
        await asyncio.to_thread(send, mail)


def send(mail: EmailMessage) -> None:
    """Send a mail, or write it to the folder of mails."""
    if server := os.environ.get("TRACKER_SMTP"):
        with smtplib.SMTP(server, timeout=10) as smtp:
            smtp.send_message(mail)
    else:
        folder = Path("mails")
        folder.mkdir(exist_ok=True)
        (folder / f"{mail['Message-ID'].strip('<>')}.eml").write_text(str(mail))


app.page("/", Path(__file__).parent / "index.html")

application = app.mount(web.Application())
application.add_routes([web.post("/login", login), web.post("/logout", logout), web.get("/me", me)])

if __name__ == "__main__":
    app.run(port=3000, application=application)
