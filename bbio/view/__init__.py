"""Views: who sees what of the models of a backend.

A view is what one viewer sees: a filter, which says which records those are, and a set of fields. It judges all that
leaves the server: results, the details of errors, events, live and replayed, and the fields that a query may name.
Viewers with equal views share its work.
"""

from bbio.view.filter import EVERYTHING, NOTHING, Filter
from bbio.view.index import ViewIndex
from bbio.view.live import live_view
from bbio.view.scope import NO_SCOPE, Scope, missing
from bbio.view.view import MayRead, View, WriterView, public_body, public_event, roles_of

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "NO_SCOPE",
    "Filter",
    "MayRead",
    "Scope",
    "View",
    "ViewIndex",
    "WriterView",
    "live_view",
    "missing",
    "public_body",
    "public_event",
    "roles_of",
]
