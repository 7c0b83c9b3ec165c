"""A Django site with sessions and users: `python django_site.py SECRET DATABASE`.

Each line that it reads is an order as JSON, such as `{"commands": ["get:/in?name=ann"]}`; each line that it writes says
what came of one. A site has a process of its own, as Django's settings are made once and for all.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY=sys.argv[1],
    SESSION_ENGINE="django.contrib.sessions.backends.db",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[2]}},
    INSTALLED_APPS=["django.contrib.sessions", "django.contrib.auth", "django.contrib.contenttypes"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import authenticate, get_user_model, login, logout  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from django.urls import path  # noqa: E402


def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.GET["name"], password="a password")
    login(request, user)
    request.session["cart"] = ["milk"] * int(request.GET.get("cart", "1"))
    return HttpResponse()


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


def visit(request: HttpRequest) -> HttpResponse:
    request.session["seen"] = True
    return HttpResponse()


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user.pk))


urlpatterns = [path("in", log_in), path("out", log_out), path("visit", visit), path("who", who)]


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Do what one browser is to do, with settings of its own; return its session cookie and what pages said."""
    with override_settings(**order.get("settings", {})):
        client, said = Client(), []
        client.cookies["sessionid"] = order.get("cookie", "")
        for command in order["commands"]:
            name, _, argument = command.partition(":")
            users = get_user_model().objects
            if name == "create":
                call_command("migrate", verbosity=0)
                for user in argument.split(","):
                    users.create_user(user, password="a password")
            elif name == "password":
                user = users.get(username=argument)
                user.set_password("another password")
                user.save()
            elif name == "deactivate":
                users.filter(username=argument).update(is_active=False)
            else:
                said.append(client.get(argument).content.decode())
        return {"cookie": client.cookies["sessionid"].value, "said": said}


for line in sys.stdin:
    print(json.dumps(obey(json.loads(line))), flush=True)
