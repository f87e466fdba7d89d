"""What a decorated function looks like to tools: the program's own name, signature and annotations, without the session."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import WRAPPER_ASSIGNMENTS, update_wrapper
from typing import TYPE_CHECKING, Any

from .annotations import innermost
from .model import Outcome

if TYPE_CHECKING:
    from .signature import Parameters


def dressed(own: Callable[..., Any], parameters: Parameters, forms: tuple[Callable[..., Any], ...]) -> Any:
    """Return a function that tools take for the program's own, except that it takes no session.

    Args:
        own: the program's.
        parameters: of it.
        forms: of a decorated function: to be called, with its outcome, joined, joined with its outcome.
    """
    signature, session = parameters.signature, parameters.session
    taken = list(signature.parameters.values())
    at = 0 if parameters.receiver is None else 1
    handed = session.replace(kind=inspect.Parameter.POSITIONAL_ONLY, default=inspect.Parameter.empty)
    before = [one.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for one in taken[:at]]
    joining = signature.replace(parameters=[*before, handed, *taken[at:]])
    function, *attributes = forms
    for form, takes in zip(forms, (signature, signature, joining, joining), strict=True):
        gives = signature.return_annotation if form.__name__ in ("function", "join") else Outcome
        _dress(form, own, takes.replace(return_annotation=gives), form is function)
    for form in attributes:
        setattr(function, form.__name__, form)
    return function


def _dress(form: Any, function: Any, signature: inspect.Signature, is_main: bool) -> None:
    name, inner = form.__name__, innermost(function)
    is_plain = inspect.isfunction(function)
    assigned = [one for one in WRAPPER_ASSIGNMENTS if one not in ("__annotations__", "__annotate__")]
    # Not the attributes of an object that can be called.
    update_wrapper(form, function, assigned, updated=("__dict__",) if is_plain and is_main else ())
    form.__module__ = inner.__module__
    form.__name__, form.__qualname__ = inner.__name__, inner.__qualname__
    if not is_main:  # found by this name, as a task queue looks for it
        form.__name__, form.__qualname__ = name, f"{inner.__qualname__}.{name}"
    form.__annotations__ = {
        one.name: one.annotation for one in signature.parameters.values() if one.annotation is not one.empty
    }
    if signature.return_annotation is not signature.empty:
        form.__annotations__["return"] = signature.return_annotation
    # Whoever follows __wrapped__ for the signature stops here; what follows it for the globals in which annotations are
    # evaluated (typing.get_type_hints, FastAPI) must arrive at the program's own.
    form.__signature__ = signature
