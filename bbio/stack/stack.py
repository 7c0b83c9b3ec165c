"""Marks become layers, and the layers of one sync method become one callable.

Everything that can be decided before the first request is decided here: which layers apply, what each asks
for, sync or async. What remains per request is calls. The order and the rules are docs/backends.md, "Rules".
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from msgspec import UNSET

from bbio.decorators import (
    BULK_KINDS,
    Marked,
    check_hidden,
    check_parameters,
    check_undecorated,
    collect,
    refuse_ephemeral,
)
from bbio.errors import DefinitionError, EncodingError, Forbidden, StackError, SyncError
from bbio.model.scalars import place_of
from bbio.patterns import ChannelPattern
from bbio.ratelimit import RateLimitedLog
from bbio.requests import METHODS, Found, Request, Response
from bbio.stack.once import Attempts, refused
from bbio.store import NO_PROMISES, Promises
from bbio.streams import Commit, Operation
from bbio.view import MayRead, WriterView

Answer = Callable[[Request], Awaitable[Any]]
Node = Callable[[Request, "Run", "Next | None"], Awaitable[Any]]
Call = Callable[..., Any]
Find = Callable[[Request], Awaitable[Commit | None]]
Write = Callable[[Request], Awaitable[Commit]]
Committing = Callable[[Request, Any], Awaitable[Commit]]
Unexpected = Callable[[Exception, Request], Exception]


logger = logging.getLogger("bbio")

PACKAGE = os.path.dirname(os.path.dirname(__file__))

# The positional arguments that each kind of layer is called with; others get `req`, `res` and `next`.
ARGUMENTS = {
    "on_error": ("err", "req", "res"),
    "once": ("req", "record"),
    "consumer": ("event",),
    "visible": ("req",),
    "presence": ("req",),
    "message": ("req", "data"),
    "channel": ("req",),
}


class Run(Response, eq=False):
    """One request on its way through a stack: the response that layers see, and what the caller is told beside it.

    Parameters:
        commit: what the write came to, once it is committed.
        found: what the store has found.
        written: a copy of the record that this very run has committed, for layers of `once=True`.
        attempt: the operation, while `Attempts` counts it as under way.
        is_doubtful: whether the run may leave its operation half done.
    """

    commit: Commit | None = None
    found: Found | None = None
    written: Any = UNSET
    attempt: Operation | None = None
    is_doubtful: bool = False

    async def begin(self, req: Request, attempts: Attempts) -> None:
        """Wait for the turn of the request's operation."""
        key = req.operation
        assert key is not None
        await attempts.begin(key)
        self.attempt = key

    def keep(self, commit: Commit, copies: bool) -> None:
        """Keep a commit, and for layers of `once=True` a copy of its record, unless it is a retry."""
        self.commit = commit
        if copies and not commit.duplicate:
            self.written = copy.deepcopy(commit.record)


class Middleware:
    """A reusable set of layers: subclass it, decorate methods, list instances in `Backend.middleware`.

    Example:
        >>> from bbio import Middleware, before, Unauthorized
        >>> class RequireUser(Middleware):
        ...     @before("write")
        ...     def check(self, req):
        ...         if req.user is None:
        ...             raise Unauthorized("log in first")
    """

    __bbio_layers__: tuple[Marked, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__bbio_layers__ = collect(cls)
        names = [entry.name for entry in cls.__bbio_layers__]
        check_hidden(cls, Middleware, names)
        check_undecorated(cls, Middleware, names)
        refuse_ephemeral(cls, cls.__bbio_layers__)

    async def start(self, backend: Any) -> None:
        """Prepare for the first request; called once for every backend that lists this middleware.

        Parameters:
            backend: the backend instance.
        """

    async def stop(self) -> None:
        """Let go of what `start` has opened; called when the application stops."""


@attrs.frozen
class Layer:
    """One compiled entry of a stack: its kind, what it is called, where it stands, and how to call it.

    Parameters:
        call: called with the arguments of its kind, in their order; for a rule of channels, then those of its parts.
        function: what it was made from.
        pattern: the channels that it is a rule for.
        bulk: whether it may run for many records before any of them is stored.
    """

    kind: str
    name: str
    where: str
    methods: tuple[str, ...]
    call: Call = attrs.field(repr=False)
    function: Call = attrs.field(repr=False)
    is_async: bool = attrs.field(repr=False)
    takes_next: bool = attrs.field(repr=False)
    in_thread: bool = False
    may_leave: bool = False
    pattern: ChannelPattern | None = None
    bulk: bool = False


def location(function: Callable[..., Any]) -> str:
    """`file:line` of a function, as far as Python knows it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "<built in>"


def make_layer(
    kind: str,
    name: str,
    methods: tuple[str, ...],
    function: Callable[..., Any],
    *,
    where: str,
    in_thread: bool = False,
    may_leave: bool = False,
    pattern: ChannelPattern | None = None,
    bulk: bool = False,
) -> Layer:
    """A layer from a bound method or a plain function, its parameters matched by name."""
    parts = () if pattern is None else pattern.names
    names = check_parameters(function, kind, name, bound=True, parts=parts)
    arguments = (*ARGUMENTS.get(kind, ("req", "res", "next")), *parts)
    first = list(inspect.signature(function).parameters.values())[: len(arguments)]
    if tuple(p.name for p in first if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD) == arguments:
        call = function
    else:
        # The adapter is generated so that a request pays one positional call and no inspection.
        passed = ", ".join(f"{n}={n}" for n in names)
        call = eval(f"lambda {', '.join(arguments)}: function({passed})", {"function": function})
    is_async = inspect.iscoroutinefunction(function)
    takes_next = "next" in names
    return Layer(
        kind, name, where, methods, call, function, is_async, takes_next, in_thread, may_leave, pattern, bulk=bulk
    )


def layers_of(owner: Any, marked: Iterable[Marked]) -> list[Layer]:
    """The layers of an instance's marked methods, in order."""
    return [
        make_layer(
            mark.kind,
            f"{type(owner).__name__}.{entry.name}",
            mark.methods,
            getattr(owner, entry.name),
            where=location(entry.function),
            in_thread=mark.thread,
            may_leave=mark.may_leave,
            pattern=mark.pattern,
            bulk=mark.bulk,
        )
        for entry in marked
        for mark in entry.marks
    ]


def middleware_layers(item: Any, methods: tuple[str, ...] = METHODS) -> list[Layer]:
    """The layers one entry of a `middleware` list stands for.

    Raises:
        DefinitionError: the entry is neither a Middleware instance nor a callable.
    """
    if isinstance(item, type) and issubclass(item, Middleware):
        raise DefinitionError(
            f"middleware lists instances, not classes: write {item.__name__}() instead of {item.__name__}"
        )
    if isinstance(item, Middleware):
        return [
            attrs.evolve(layer, methods=tuple(m for m in layer.methods if m in methods))
            for layer in layers_of(item, item.__bbio_layers__)
        ]
    if not callable(item):
        raise DefinitionError(
            f"{item!r} is not middleware; list an instance of a Middleware subclass or a function (req, res, next)"
        )
    name = getattr(item, "__qualname__", repr(item))
    return [make_layer("use", name, methods, item, where=location(item))]


# What `next` came to, as long as it runs.
NO_RESULT = object()


class Next(msgspec.Struct, eq=False):
    """`next` of one layer in one request: runs what is below, once; what is below tells it what it came to."""

    below: Node
    layer: Layer
    req: Request
    res: Run
    called: bool = False
    failure: Exception | None = None
    result: Any = NO_RESULT

    def run(self) -> Awaitable[Any]:
        if self.called:
            raise StackError(
                f"{self.layer.name} ({self.layer.where}) called next twice; call it once and keep the result"
            )
        self.called = True
        return self.below(self.req, self.res, self)

    def outcome(self) -> Any:
        """Return the result of `next`, for a layer that gave no answer of its own."""
        if self.failure is not None:
            raise self.failure
        if self.result is NO_RESULT:
            raise StackError(
                f"{self.layer.name} ({self.layer.where}) called next but did not wait; write `await next()`"
            )
        return self.result


def _settled(res: Response) -> Any:
    if res.failure is not None:
        raise res.failure
    return res.result


def _unanswered(layer: Layer) -> StackError:
    return StackError(
        f"{layer.name} ({layer.where}) neither answered nor called next; "
        f"return a result, call res.end(result), or `return await next()`"
    )


def _empty(layer: Layer, method: str) -> None:
    others = "" if method == "read" else ", and others are told the model as the client sent it"
    logger.warning(
        "%s (%s) answers a %s with nothing: `return` the result; the client gets null%s",
        layer.name,
        layer.where,
        method,
        others,
    )


def _fold_around(layer: Layer, below: Node) -> Node:
    """A `use` layer or a handler on top of what is below it."""
    call, must_answer, is_async, takes_next = layer.call, layer.kind == "use", layer.is_async, layer.takes_next
    is_told = False

    async def settle(value: Any, req: Request, res: Run, following: Next | None) -> Any:
        nonlocal is_told
        # `return next()`, in a sync function or for want of an `await`.
        if value is not None and hasattr(value, "__await__"):
            value = await value
        if res.settled:
            return _settled(res)
        if value is None:
            if following is not None and following.called:
                return following.outcome()
            if must_answer:
                raise _unanswered(layer)
            if not is_told and req.method != "delete":
                is_told = True
                _empty(layer, req.method)
        return value

    async def around(req: Request, res: Run, above: Next | None) -> Any:
        following = None
        try:
            if takes_next:
                following = Next(below, layer, req, res)
                value = call(req, res, following.run)
            else:
                value = call(req, res, None)
            if is_async:
                value = await value
            if res.settled or type(value) is not dict:
                value = await settle(value, req, res, following)
        except Exception as err:
            if above is not None:
                above.failure = err
            raise
        if above is not None:
            above.result = value
        return value

    return around


def _fold_before(layers: Sequence[Layer], below: Node) -> Node:
    """Neighbouring `before` layers on top of what is below them."""
    calls = [(layer.call, layer.is_async) for layer in layers]

    async def checked(req: Request, res: Run, above: Next | None) -> Any:
        for call, is_async in calls:
            value = call(req, res, None)
            if is_async or hasattr(value, "__await__"):
                await value
            if res.settled:
                return _settled(res)
        return await below(req, res, None)

    return _telling(checked)


def _fold_once(find: Find, attempts: Attempts, below: Node) -> Node:
    """Fold a guard around the layers below: a known operation gets its first answer and does not reach them again."""

    async def once(req: Request, res: Run, above: Next | None) -> Any:
        if req.op is None:
            return await below(req, res, None)
        await res.begin(req, attempts)
        earlier = await find(req)
        if earlier is not None:
            res.commit = earlier
            return attempts.reply(res.attempt, earlier)
        attempts.check(res.attempt)
        res.is_doubtful = True
        try:
            result = await below(req, res, None)
        except Exception as err:
            if refused(err):
                res.is_doubtful = False
            raise
        attempts.keep(res.attempt, req, result, res.commit)
        return result

    return _telling(once)


def _fold_turn(attempts: Attempts, below: Node) -> Node:
    """A store that tells by itself what it has applied, though perhaps not yet while it waits."""

    async def turn(req: Request, res: Run, above: Next | None) -> Any:
        if req.op is not None:
            await res.begin(req, attempts)
        return await below(req, res, None)

    return _telling(turn)


def _telling(node: Node) -> Node:
    """The same node, telling the `next` that runs it what it came to."""

    async def tell(req: Request, res: Run, above: Next) -> Any:
        try:
            result = await node(req, res, None)
        except Exception as err:
            above.failure = err
            raise
        above.result = result
        return result

    def telling(req: Request, res: Run, above: Next | None) -> Awaitable[Any]:
        return node(req, res, None) if above is None else tell(req, res, above)

    return telling


def _lowest(answer: Answer) -> Node:
    """Return the node that answers when no layer did."""

    async def lowest(req: Request, res: Run, above: Next | None) -> Any:
        try:
            result = await answer(req)
            if type(result) is Found:
                res.found = result
                result = result.models
            elif req.has_left:
                res.found = req.found(result)
        except Exception as err:
            if above is not None:
                above.failure = err
            raise
        if above is not None:
            above.result = result
        return result

    return lowest


def _lowest_write(write: Write, atomic: bool, copies: bool) -> Node:
    """A store's `write` below all layers."""

    async def lowest(req: Request, res: Run, above: Next | None) -> Any:
        try:
            if atomic:
                res.is_doubtful = False  # from here on the store knows
            commit = await write(req)
            res.keep(commit, copies)
        except Exception as err:
            if above is not None:
                above.failure = err
            raise
        if above is not None:
            above.result = commit.record
        return commit.record

    return lowest


async def bottom(req: Request) -> Any:
    """The end of every stack answers with the model, as the original does."""
    return req.model


class Stack:
    """The compiled stack of one sync method of one backend.

    Parameters:
        method: the sync method.
        layers: all layers of the backend in order; those for other methods are left out.
        store: what answers when nothing above did; the bottom by default.
        commit: awaited with the request and the result of a write, to log and publish what the store did not.
        find: awaited with a request that has an operation id, to learn what the operation already came to.
        attempts: the operations under way; given with `find`.
        write: awaited to write, in place of `store`.
        promises: what the store promises of the method; one that is atomic knows which operations it has applied.
        judge: called with the request and what has come of it, to leave the records that the client may have.
        show: called with the request and the response at last, to leave what the client may see.
        may_read: awaited with a client's request to say whether it may read what it writes; not given where it may.
    """

    __slots__ = (
        "_after",
        "_atomic",
        "_attempts",
        "_before",
        "_commit",
        "_direct",
        "_immediate",
        "_judge",
        "_log",
        "_on_error",
        "_once",
        "_show",
        "_top",
        "_writers",
        "is_bare",
        "layers",
        "method",
        "passes_on",
    )

    def __init__(
        self,
        method: str,
        layers: Sequence[Layer],
        store: Answer = bottom,
        commit: Committing | None = None,
        find: Find | None = None,
        attempts: Attempts | None = None,
        write: Write | None = None,
        promises: Promises = NO_PROMISES,
        show: Callable[[Request, Response], None] | None = None,
        may_read: MayRead | None = None,
        judge: Callable[[Request, Run], None] | None = None,
    ) -> None:
        self.method = method
        self._writers = None if may_read is None else WriterView(may_read)
        self._judge = judge
        self.layers = tuple(layer for layer in layers if method in layer.methods)
        self._show = show
        self._after = tuple(layer for layer in self.layers if layer.kind == "after")
        self._once = tuple(layer for layer in self.layers if layer.kind == "once")
        self._commit = commit
        self._on_error = tuple(layer for layer in self.layers if layer.kind == "on_error")
        before = [layer for layer in self.layers if layer.kind == "before"]
        self._before = _fold_before(before, _lowest(bottom)) if before else None
        above = any(layer.kind in ("before", "use", "handler") for layer in self.layers)
        self._direct = None if above else write
        # Whether a request meets no code of the application, and nothing that waits.
        self.is_bare = promises.immediate and not self.layers
        self._atomic, self._immediate = promises.atomic, promises.immediate
        self._attempts = attempts or Attempts()
        # Whether the client is given lists as the store has read them.
        self.passes_on = promises.passes_on and not self.may_shorten
        self._log = RateLimitedLog(logger)
        lowest = _lowest(store) if write is None else _lowest_write(write, promises.atomic, bool(self._once))
        self._top = self._fold(lowest, find, self._attempts)

    @property
    def has_handler(self) -> bool:
        """Return whether a handler answers, or hands over on purpose to the layers below."""
        return any(layer.kind == "handler" for layer in self.layers)

    @property
    def not_for_bulk(self) -> list[Layer]:
        """Return the layers that must not run for many records before any of them is stored."""
        return [layer for layer in self.layers if layer.kind in BULK_KINDS and not layer.bulk]

    @property
    def may_answer(self) -> bool:
        """Return whether a layer answers: a handler, or perhaps a `use` layer of the application's."""
        return self.has_handler or any(
            layer.kind == "use" and not layer.where.startswith(PACKAGE) for layer in self.layers
        )

    @property
    def may_shorten(self) -> bool:
        """Return whether a client's answer may be shorter than the list that the store reads for it."""
        return self._show is not None or any(
            layer.kind != "before" and not (layer.kind == "use" and layer.where.startswith(PACKAGE))
            for layer in self.layers
        )

    def _fold(self, node: Node, find: Find | None, attempts: Attempts) -> Node:
        once = None if find is None else partial(_fold_once, find, attempts)
        waiting: list[Layer] = []
        outermost = next((layer for layer in self.layers if layer.kind == "handler"), None)
        if outermost is None and once is not None and not self._immediate:
            node = _fold_turn(attempts, node) if self._atomic else once(node)
        for layer in reversed(self.layers):
            if layer.kind == "before":
                waiting.insert(0, layer)
                continue
            if layer.kind in ("use", "handler"):
                if waiting:
                    node = _fold_before(waiting, node)
                    waiting = []
                node = _fold_around(layer, node)
                if layer is outermost and once is not None:
                    node = once(node)
        return _fold_before(waiting, node) if waiting else node

    async def run(self, req: Request, unexpected: Unexpected = lambda err, req: err, res: Run | None = None) -> Run:
        """Run the stack; the response then holds result or failure. Raises nothing but cancellation.

        Parameters:
            req: the request.
            unexpected: what is reported instead of a failure that is no `SyncError`.
            res: the response to fill, where the caller looks at it meanwhile.
        """
        if res is None:
            res = Run()
        result = None
        writers = self._writers
        given: Collection[str] = () if writers is None else writers.given(req)
        try:
            if writers is not None and self.method == "patch":
                await writers.check(req, given)
            if self._direct is not None and (req.op is None or self._atomic):
                if req.op is not None and not self._immediate:
                    await res.begin(req, self._attempts)
                commit = await self._direct(req)
                res.keep(commit, bool(self._once))
                res.result = commit.record
                res.body = commit.body
                res.settled = True
            else:
                result = await self._top(req, res, None)
                res.settled = True
                res.result = result
                if self._commit is not None and res.commit is None:
                    res.keep(await self._commit(req, result), bool(self._once))
            if self._after:
                res.body = None
                await self._run_after(req, res)
        except Exception as err:
            if isinstance(err, EncodingError):
                self.explain(err, req, result if err.result is None else err.result)
            await self._fail(err, req, res)
            if res.failure is not None and not isinstance(res.failure, SyncError):
                res.failure = unexpected(res.failure, req)
        finally:
            if res.attempt is not None:
                self._attempts.end(res.attempt, res.is_doubtful and res.commit is None)
                res.attempt = None
        if res.written is not UNSET:
            await self._run_once(req, res.written)
        if self._judge is not None:
            self._show_safely(self._judge, req, res, unexpected)
        if self._show is not None:
            self._show_safely(self._show, req, res, unexpected)
        if writers is not None:
            await writers.show(req, given, res)
        return res

    def explain(self, err: EncodingError, req: Request, result: Any) -> None:
        """Say in an error where the value is that cannot be written, and which layers may have put it there."""
        kinds = ("use", "handler", "after")
        place = place_of(err.value, result, "result")
        if place is None:
            kinds = ("before", "use", "handler")
            place = place_of(err.value, req.model, "req.model")
        layers = [f"{layer.name} ({layer.where})" for layer in self.layers if layer.kind in kinds]
        if place is not None and layers:
            err.locate(f"{place}, from {' or '.join(layers)},")

    @staticmethod
    def _show_safely(show: Callable[[Request, Any], None], req: Request, res: Response, unexpected: Unexpected) -> None:
        try:
            show(req, res)
        except Exception as err:
            res.failure = unexpected(err, req)

    async def admit(self, req: Request, unexpected: Unexpected = lambda err, req: err) -> Response:
        """Run the `before` layers alone: who may not read may not listen. Raises nothing but cancellation."""
        res = Run()
        try:
            if self._before is not None:
                await self._before(req, res, None)
                if res.settled:
                    # It answers a read with something else, such as nothing; that is no leave to listen.
                    raise Forbidden("not allowed to listen")
        except Exception as err:
            await self._fail(err, req, res)
            # To recover is to answer a read with something else; it lets nobody listen.
            res.failure = res.failure or err
            if not isinstance(res.failure, SyncError):
                res.failure = unexpected(res.failure, req)
            if self._show is not None:
                self._show_safely(self._show, req, res, unexpected)
        return res

    async def _run_after(self, req: Request, res: Response) -> None:
        for layer in self._after:
            value = layer.call(req, res, None)
            if layer.is_async or hasattr(value, "__await__"):
                await value

    async def _run_once(self, req: Request, written: Any) -> None:
        """Run what is to happen once for a write; what it does or raises makes no difference to the reply."""
        for layer in self._once:
            try:
                value = layer.call(req, written)
                if layer.is_async or hasattr(value, "__await__"):
                    await value
            except Exception as err:
                self._log.error(
                    err,
                    "%s (%s) failed after the write that it was for; a retry of the write does not run it again",
                    layer.name,
                    layer.where,
                )

    async def _fail(self, err: Exception, req: Request, res: Response) -> None:
        res.reopen()
        for layer in self._on_error:
            try:
                value = layer.call(err, req, res)
                if layer.is_async or hasattr(value, "__await__"):
                    await value
            except Exception as another:
                err = another
                res.reopen()
                continue
            if res.settled:
                if res.failure is None:
                    return
                err = res.failure
                res.reopen()
        res.error(err)
