"""Decorators and the checks made when a class is defined; every refusal shows the fix."""

import functools

import pytest

from bbio import (
    App,
    Backend,
    DefinitionError,
    Middleware,
    after,
    before,
    channel,
    create,
    delete,
    on_connect,
    on_error,
    patch,
    read,
    update,
    use,
)
from bbio.decorators import MARKS, WRITE_METHODS, Mark, collect
from bbio.requests import METHODS

PHASES = [before, use, after, on_error]
HANDLERS = [create, read, update, patch, delete]


def marks_of(function):
    return getattr(function, MARKS)


def names_of(cls):
    return [(entry.name, [mark.kind for mark in entry.marks]) for entry in collect(cls)]


# Marks


@pytest.mark.parametrize("decorator", PHASES + HANDLERS, ids=repr)
def test_a_decorator_returns_the_function_unchanged(decorator):
    """The very same object comes back, bare or called, and can still be called as a plain function."""

    def layer(self):
        return "plain"

    assert decorator(layer) is layer

    def other(self):
        return "plain"

    assert decorator()(other) is other
    assert other(None) == "plain"


@pytest.mark.parametrize("phase", PHASES, ids=repr)
def test_a_phase_applies_to_every_method_unless_told(phase):
    """Bare and empty mean all five; arguments name some, in the order given."""
    assert marks_of(phase(lambda self: None)) == (Mark(phase.__name__, METHODS),)
    assert marks_of(phase()(lambda self: None)) == (Mark(phase.__name__, METHODS),)
    assert marks_of(phase("update", "create")(lambda self: None)) == (Mark(phase.__name__, ("update", "create")),)


@pytest.mark.parametrize("phase", PHASES, ids=repr)
def test_write_means_all_writes(phase):
    """One name for the four that change something, so that none is forgotten; `read` may stand beside it."""
    assert marks_of(phase("write")(lambda self: None)) == (Mark(phase.__name__, WRITE_METHODS),)
    assert marks_of(phase("read", "write")(lambda self: None)) == (Mark(phase.__name__, ("read", *WRITE_METHODS)),)
    assert WRITE_METHODS == ("create", "update", "patch", "delete")


def test_a_layer_of_once_is_for_writes():
    """`@after(once=True)` is for all of them; a name that is no option of a decorator is told."""
    assert marks_of(after(once=True)(lambda self: None)) == (Mark("once", WRITE_METHODS),)
    assert marks_of(after("create", once=True)(lambda self: None)) == (Mark("once", ("create",)),)
    assert marks_of(after("create", once=False)(lambda self: None)) == (Mark("after", ("create",)),)
    with refused("@after('read', once=True): a read changes nothing; once=True is for writes"):
        after("read", once=True)
    with refused("@after takes no 'twice'"):
        after("create", once=True, twice=True)
    for phase in (before, use, on_error):
        with refused(f"@{phase.__name__} takes no 'once'; only @after takes once=True"):
            phase("create", once=True)
    for phase in PHASES:
        with refused(f"@{phase.__name__} takes no 'methods'; name sync methods, or say thread=True"):
            phase(methods="create")


@pytest.mark.parametrize("handler", HANDLERS, ids=repr)
def test_a_handler_applies_to_its_own_method(handler):
    """`@create` and `@create()` leave the same mark."""
    assert marks_of(handler(lambda self: None)) == (Mark("handler", (handler.__name__,)),)
    assert marks_of(handler()(lambda self: None)) == (Mark("handler", (handler.__name__,)),)


def test_one_function_can_carry_several_marks():
    """A function may handle several methods, and be a layer of several kinds."""

    @create
    @update
    @before("read")
    @after("read")
    def several(self, req): ...

    assert {(m.kind, m.methods) for m in marks_of(several)} == {
        ("handler", ("create",)),
        ("handler", ("update",)),
        ("before", ("read",)),
        ("after", ("read",)),
    }


def test_one_kind_may_be_spread_over_several_decorators():
    """`@before("create")` above `@before("update")` is `@before("create", "update")` in other words."""

    @before("create")
    @before("update")
    def split(self): ...

    assert {m for mark in marks_of(split) for m in mark.methods} == {"create", "update"}


def test_decorators_show_themselves():
    """The representation is what one writes."""
    assert repr(before) == "<decorator @before>"
    assert repr(create) == "<decorator @create>"


# Refused when decorating


def refused(text):
    """Expect a `DefinitionError` whose text has all the parts of `text` in order, separated by ' ... '."""
    import re

    return pytest.raises(DefinitionError, match=".*".join(re.escape(part) for part in text.split(" ... ")))


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        (("creat",), "@before('creat'): there is no sync method 'creat' ... did you mean 'create'?"),
        (("read", "updated"), "'updated' ... did you mean 'update'?"),
        (("fly",), "there is no sync method 'fly' ... use any of create, read, update, patch, delete"),
        (("CREATE",), "there is no sync method 'CREATE' ... did you mean 'create'?"),
        (("create", 5), "there is no sync method 5 ... use any of create, read, update, patch, delete"),
        (("fly",), "use any of ... patch, delete, or 'write' for create, update, patch, delete"),
        (("writes",), "there is no sync method 'writes'; did you mean 'write'?"),
        (("read", "create", "read"), "@before: 'read' is named twice; name each sync method once"),
        (
            ("patch", "write"),
            "@before: 'patch' is named twice; name each sync method once; 'write' is create, update, patch, delete",
        ),
    ],
)
def test_a_method_that_does_not_exist_or_comes_twice(methods, text):
    """The text names the method meant, or lists those there are."""
    with refused(text):
        before(*methods)


def test_a_far_fetched_name_gets_no_suggestion():
    """No suggestion is better than a wrong one."""
    with pytest.raises(DefinitionError) as caught:
        use("fly")
    assert "did you mean" not in str(caught.value)


def test_the_same_mark_twice():
    """Naming a method again in a second decorator of the kind is as wrong as in the first."""
    with refused("@before: 'create' is already marked so on this method; name it once"):

        @before
        @before("create")
        def twice(self): ...

    with refused("@create: 'create' is already marked so on this method; name it once"):

        @create
        @create
        def again(self): ...


@pytest.mark.parametrize("given", [("read",), ("create", "read"), (lambda self: 1, lambda self: 2)])
def test_a_handler_takes_no_arguments(given):
    """`@create("read")` says two things at once; the text says what to write."""
    with refused("@create takes no arguments: it already names its sync method; write @create above the method"):
        create(*given)


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod, property])
@pytest.mark.parametrize("decorator", [before, create, use("read")])
def test_a_mark_on_something_that_is_no_plain_method(wrapper, decorator):
    """A decorator above `@staticmethod` and its kin is refused."""
    with refused(f"is on a {wrapper.__name__}; decorate a plain method ... `def name(self, ...)`"):

        class Wrong(Backend):
            @decorator
            @wrapper
            def layer(self): ...


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod, property, functools.cached_property])
def test_a_mark_under_something_that_is_no_plain_method(wrapper):
    """A decorator under `@staticmethod` and its kin is refused too: the layer would be lost."""
    with refused(f"Wrong.layer is a {wrapper.__name__} over a marked function; ... write `def layer(self, ...)`"):

        class Wrong(Backend):
            @wrapper
            @before
            def layer(self): ...


@pytest.mark.parametrize("target", [None, 5, {"a": 1}, object, Backend, len, functools.partial(print)], ids=repr)
@pytest.mark.parametrize("decorator", [before, create, use("read")], ids=["@before", "@create", "@use('read')"])
def test_a_mark_on_something_that_is_no_function(decorator, target):
    """Values, classes and built-in functions are no layers."""
    with refused(" is on ... which is not a function; put it above `def name(self, ...)`"):
        decorator(target)


@pytest.mark.parametrize("names", [["create", "update"], ("create",), {"create"}], ids=repr)
def test_methods_in_a_list(names):
    """A list of methods is not unpacked; the text shows how to name them."""
    with refused("@before: name the sync methods one by one: @before('create', 'update')"):
        before(names)


# Refused when the class is defined


def define(decorator, source):
    """A backend with one layer, from the source of its function."""
    scope = {}
    exec(source, scope)
    function = next(value for name, value in scope.items() if name != "__builtins__")
    return type("Wrong", (Backend,), {function.__name__: decorator(function)})


@pytest.mark.parametrize(
    ("decorator", "source", "text"),
    [
        (before, "def a(self, request): ...", "Wrong.a: unknown parameter `request`; did you mean `req`?"),
        (
            before,
            "def a(self, resp): ...",
            "unknown parameter `resp`; did you mean `res`? ... layers may take req, res",
        ),
        (
            use,
            "def a(self, nxt): ...",
            "unknown parameter `nxt`; did you mean `next`? ... layers may take req, res, next",
        ),
        (after, "def a(self, q): ...", "unknown parameter `q`; ... after layers may take req, res"),
        (
            on_error,
            "def a(self, error): ...",
            "unknown parameter `error`; did you mean `err`? ... err, req, res",
        ),
        (
            after("create", once=True),
            "def a(self, res): ...",
            "Wrong.a: a layer of once=True has no `res`, ... take `record`, or shape the reply in another @after",
        ),
        (after("create", once=True), "def a(self, next): ...", "once layers have no `next`"),
        (after, "def a(self, record): ...", "`record` is only for @after(..., once=True); drop it"),
        (on_error, "def a(self, *, zzz): ...", "unknown parameter `zzz`; ... layers may take err, req, res"),
        (
            before,
            "def a(self, req, next): ...",
            "before layers have no `next`; drop it, or mark the method with @use",
        ),
        (
            after,
            "def a(self, next): ...",
            "after layers have no `next`; drop it, or mark the method with @use",
        ),
        (
            on_error,
            "def a(self, next): ...",
            "on_error layers have no `next`; drop it, or mark the method with @use",
        ),
        (
            before,
            "def a(self, err): ...",
            "`err` is only for @on_error; drop it, or mark the method with @on_error",
        ),
        (
            create,
            "def a(self, err): ...",
            "`err` is only for @on_error; drop it, or mark the method with @on_error",
        ),
        (
            use,
            "def a(self, *args): ...",
            "Wrong.a: *args cannot be matched; name what you need: req, res, next",
        ),
        (
            use,
            "def a(self, **kw): ...",
            "Wrong.a: **kw cannot be matched; name what you need: req, res, next",
        ),
        (use, "def a(self, *req): ...", "Wrong.a: *req cannot be matched; name what you need"),
        (use, "def a(self, **req): ...", "Wrong.a: **req cannot be matched; name what you need"),
        (before, "def a(self, req, /): ...", "Wrong.a: `req` is matched by name; drop the `/` after it"),
        (before, "def a(): ...", "Wrong.a has no `self`; write def a(self, req, res)"),
        (before, "def a(*, req): ...", "Wrong.a has no `self`; write def a(self, req, res)"),
        (before, "def a(req): ...", "Wrong.a has no `self`; write def a(self, req, res)"),
        (use, "def a(next, req): ...", "Wrong.a has no `self`; write def a(self, req, res, next)"),
        (use, "def a(self, next):\n    yield 1", "Wrong.a is a generator; use `return`, not `yield`"),
        (use, "async def a(self, next):\n    yield 1", "Wrong.a is a generator; use `return`, not `yield`"),
    ],
)
def test_a_signature_that_cannot_be_matched(decorator, source, text):
    """A parameter no request could fill is refused when the class is defined."""
    with refused(text):
        define(decorator, source)


def test_parameters_must_fit_every_mark():
    """A function that is both handler and `before` cannot ask for `next`."""
    with refused("Wrong.both: before layers have no `next`"):

        class Wrong(Backend):
            @before("read")
            @create
            def both(self, next): ...


def test_parameters_of_an_undecorated_override_are_checked():
    """It inherits the marks, so it must fit them."""

    class Base(Backend):
        @before
        def check(self, req): ...

    with refused("Wrong.check: unknown parameter `request`; did you mean `req`?"):

        class Wrong(Base):
            def check(self, request): ...


def test_parameters_with_defaults_are_left_alone():
    """A default makes an unknown parameter the function's own affair."""

    class Fine(Backend):
        @before
        def a(self, req, limit=10, *, unit="s"): ...

    assert names_of(Fine) == [("a", ["before"])]


@pytest.mark.parametrize("value", [None, 5, "text", dict], ids=repr)
def test_a_layer_cannot_be_dropped_by_assignment(value):
    """Losing an authorization layer needs more than `name = None`; the text tells what to write instead."""

    class Base(Backend):
        @before
        def check(self, req): ...

    with refused("Wrong.check replaces a marked method with ... override it with `def check(self, ...)`"):
        type("Wrong", (Base,), {"check": value})


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod, property])
def test_a_layer_cannot_be_dropped_by_another_kind_of_method(wrapper):
    """A static method or property of the same name would not be called with what the layer was."""

    class Base(Backend):
        @before
        def check(self, req): ...

    with refused("Wrong.check ... `def check(self, ...)`"):
        type("Wrong", (Base,), {"check": wrapper(lambda self: None)})


@pytest.mark.parametrize("base", [Backend, Middleware], ids=lambda base: base.__name__)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("create", "req"),
        ("read", "req, next"),
        ("update", "req, res"),
        ("patch", "req, res, next"),
        ("delete", "next"),
        ("before", "req"),
        ("after", "res"),
        ("on_error", "err"),
    ],
)
def test_a_decorator_that_was_forgotten(base, name, parameters):
    """A method called as its decorator would be, which nothing would call, in the class itself or in a mixin."""
    scope = {}
    exec(f"def {name}(self, {parameters}): ...", scope)
    text = f"{name} has no decorator, so nothing calls it; write @{name} above it, or give it another name"
    with refused(f"Wrong.{text}"):
        type("Wrong", (base,), {name: scope[name]})
    mixin = type("Mixin", (), {name: scope[name]})
    with refused(f"Mixin.{text}"):
        type("Wrong", (mixin, base), {})
    decorator = next(each for each in PHASES + HANDLERS if each.__name__ == name)
    type("Child", (type("Base", (base,), {name: decorator(scope[name])}),), {name: lambda self, req=None: None})


def test_a_helper_with_the_name_of_a_method():
    """It is left alone when it could be no layer, and so is what is no function."""

    class Files(Backend):
        create = None

        def update(self): ...

        def delete(self, path): ...

        @staticmethod
        def patch(req): ...

        def allowed(self, req): ...

    assert collect(Files) == ()


# Collected


def test_marks_are_collected_from_the_most_basic_class_in_definition_order():
    """Base classes first, then top to bottom; what is not decorated is no layer."""

    class Base(Backend):
        @before
        def first(self): ...
        @before
        def second(self): ...

    class Mixin:
        @use
        def third(self, next): ...

        def helper(self): ...

    class Child(Mixin, Base):
        @create
        def fourth(self): ...

    assert [name for name, _ in names_of(Child)] == ["first", "second", "third", "fourth"]


def test_an_undecorated_override_keeps_slot_and_marks():
    """Forgetting the decorator must not lose the layer."""

    class Base(Backend):
        @before("create")
        def guard(self): ...
        @before
        def later(self): ...

    class Child(Base):
        def guard(self): ...

    guard, later = collect(Child)
    assert (guard.name, guard.marks, guard.owner) == ("guard", (Mark("before", ("create",)),), Child)
    assert guard.function is Child.guard
    assert later.name == "later"


def test_a_decorated_override_replaces_the_marks_in_the_same_slot():
    """New marks, old place, and nothing of the old marks left."""

    class Base(Backend):
        @before("create")
        def guard(self): ...
        @before
        def later(self): ...

    class Child(Base):
        @use("read")
        def guard(self, next): ...

    assert [(e.name, e.marks) for e in collect(Child)] == [
        ("guard", (Mark("use", ("read",)),)),
        ("later", (Mark("before", METHODS),)),
    ]


def test_a_base_class_is_not_changed_by_its_subclasses():
    """What a subclass overrides stays as it was for everybody else."""

    class Base(Backend):
        @before
        def guard(self): ...

    class Child(Base):
        @after
        def guard(self): ...

    assert names_of(Base) == [("guard", ["before"])]
    assert names_of(Child) == [("guard", ["after"])]


def test_a_wrapped_function_is_matched_by_what_it_wraps():
    """A decorator of one's own that uses `functools.wraps` passes mark and signature on."""

    def counted(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Fine(Backend):
        @counted
        @before("read")
        def a(self, req): ...

    assert names_of(Fine) == [("a", ["before"])]


def test_what_merely_looks_marked_is_no_layer():
    """An attribute that answers to every name, such as a proxy, is left alone."""

    class Proxy:
        def __call__(self): ...
        def __getattr__(self, name):
            return self

    class Fine(Backend):
        proxy = Proxy()

    assert names_of(Fine) == []


def test_a_layer_may_run_in_a_thread():
    """The option is part of the mark, of every kind."""

    class Notes(Backend):
        @before("write", thread=True)
        @use(thread=True)
        @after("create", thread=True)
        @after("update", once=True, thread=True)
        def plain(self, req): ...

        @read(thread=True)
        @create()
        def handler(self): ...

    marks = {(mark.kind, mark.thread) for entry in Notes.__bbio_layers__ for mark in entry.marks}
    assert marks == {
        ("before", True),
        ("use", True),
        ("after", True),
        ("once", True),
        ("handler", True),
        ("handler", False),
    }


def in_thread_async():
    @read(thread=True)
    async def late(self): ...

    return late


def in_thread_next():
    @use(thread=True)
    def late(self, req, next): ...

    return late


@pytest.mark.parametrize(
    ("late", "text"),
    [
        (in_thread_async, r"Notes\.late is async and says thread=True; drop thread=True, or make it a plain `def`"),
        (in_thread_next, r"Notes\.late says thread=True and takes `next`.*drop `next`, or .*asyncio\.to_thread"),
    ],
)
def test_what_cannot_run_in_a_thread_is_refused(late, text):
    """When the class is defined, also where a subclass overrides a method that may."""
    with pytest.raises(DefinitionError, match=text):
        type("Notes", (Backend,), {"late": late()})


def test_an_override_keeps_the_thread():
    """And so it must be plain."""

    class Base(Backend):
        @read(thread=True)
        def late(self): ...

    async def late(self): ...

    with pytest.raises(DefinitionError, match="is async and says thread=True"):
        type("Notes", (Base,), {"late": late})


# Rules of channels, and what runs once for each connection


def test_a_rule_of_channels_leaves_its_pattern():
    """A method may be the rule for several; the names of their parts are its parameters."""

    class Tasks(Backend):
        @channel("project-{project}")
        @channel("old-{project}", thread=True)
        def members(self, project, req, extra=None): ...

        @channel("")
        async def default(self): ...

        @on_connect
        def greet(self, req): ...

        @on_connect(thread=True)
        def load(self): ...

    assert names_of(Tasks) == [
        ("members", ["channel", "channel"]),
        ("default", ["channel"]),
        ("greet", ["on_connect"]),
        ("load", ["on_connect"]),
    ]
    marks = collect(Tasks)[0].marks
    assert [(mark.pattern.text, mark.parts, mark.thread) for mark in marks] == [
        ("old-{project}", ("project",), True),
        ("project-{project}", ("project",), False),
    ]
    assert (repr(channel), repr(on_connect)) == ("<decorator @channel>", "<decorator @on_connect>")


def test_what_is_no_rule_is_refused():
    """The text shows the fix."""
    with refused("@channel names the channels ... @channel('project-{project}')"):
        channel(lambda self: None)
    with refused("@channel('a'): 'a' is already marked so on this method"):
        channel("a")(channel("a")(lambda self: None))
    with refused("@on_connect names nothing"):
        on_connect("create")
    with refused("unknown parameter `room` ... channel layers may take req, project"):

        class Tasks(Backend):
            @channel("project-{project}")
            def members(self, room): ...

    with refused("`res`"):

        class Posts(Backend):
            @on_connect
            def greet(self, res): ...

    with refused("has no decorator, so nothing calls it; write @on_connect above it"):

        class Notes(Backend):
            def on_connect(self, req): ...


def test_two_rules_that_could_be_asked_about_one_channel_are_refused():
    """In one class, or where one comes from a base; an override takes the place of what it overrides."""

    class Base(Backend):
        @channel("room-{room}")
        def rooms(self, room): ...

    with refused(
        "Derived.lobby: @channel('room-lobby') could be ... of @channel('room-{room}'), ... Base.rooms; begin"
    ):

        class Derived(Base):
            @channel("room-lobby")
            def lobby(self): ...

    class Overriding(Base):
        def rooms(self, req, room): ...

    assert collect(Overriding)[0].marks[0].pattern.text == "room-{room}"

    class Anew(Base):
        @channel("room-lobby")
        def rooms(self): ...

    assert [mark.pattern.text for mark in collect(Anew)[0].marks] == ["room-lobby"]

    class Rooms(Middleware):
        @channel("{room}")
        def any(self): ...

    class Both(Base):
        middleware = [Rooms()]

    with refused("could be asked about a channel of"):
        App().serve(Both)


def test_bulk_is_for_what_runs_before_a_record_is_stored():
    """It stays on the layer; where it would say nothing, it is refused."""

    class Todos(Backend):
        @before("create", bulk=True)
        def check(self): ...

        @use(bulk=True)
        def around(self): ...

        @create(bulk=True)
        def make(self): ...

        @update
        def change(self): ...

    marks = [mark for entry in Todos.__bbio_layers__ for mark in entry.marks]
    assert [mark.bulk for mark in marks] == [True, True, True, False]
    for decorator in (after, on_error):
        with refused(f"@{decorator.__name__} takes no 'bulk'; layers that run when a record is stored"):
            decorator(bulk=True)
