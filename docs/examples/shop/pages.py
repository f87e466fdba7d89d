"""The pages for people. The form carries a token that is good for one order."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from sqlalchemy.orm import Session

from idemtable.web.fastapi import session

from .models import PRICES, NewOrder, Order, order_of, orders_of, place

templates = Jinja2Templates(Path(__file__).parent / "templates")
router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/welcome")
def welcome(request: Request) -> Response:
    if "session" not in request.cookies:
        raise HTTPException(400, "This shop knows you by a cookie: please allow it one")
    return RedirectResponse("/", 303)


@router.get("/")
def shop(request: Request) -> Response:
    if "session" not in request.cookies:
        # A browser that goes back shows the page that it has kept, unless its cookies are others now.
        return RedirectResponse("/welcome", 303)
    customer, state = request.user.username, request.app.state
    with Session(state.engine) as reading:
        orders = orders_of(reading, customer)
    token = state.tokens.issue(customer)
    page = {"prices": PRICES, "orders": orders, "token": token}
    # Not no-store: going back would bring a new token, and sending the form again would be a new order.
    return templates.TemplateResponse(request, "shop.html", page, headers={"Cache-Control": "private, no-cache"})


@router.post("/checkout")
def buy(request: Request, new: Annotated[NewOrder, Form()], session: Annotated[Session, Depends(session)]) -> Response:
    """Send the browser on to a page of its own: reloading that asks for nothing."""
    order = place(session, request.user.username, new)
    return RedirectResponse(f"/orders/{order.id}", 303)


@router.post("/checkout/here")
def buy_here(
    request: Request, new: Annotated[NewOrder, Form()], session: Annotated[Session, Depends(session)]
) -> Response:
    """Answer the POST itself. Reloading sends it again; the middleware answers that, with this same page."""
    return receipt(request, place(session, request.user.username, new))


@router.get("/orders/{order_id}")
def order(request: Request, order_id: int) -> Response:
    with Session(request.app.state.engine) as reading:
        found = order_of(reading, request.user.username, order_id)
    if found is None:
        raise HTTPException(404, "You have no such order")
    return receipt(request, found)


def receipt(request: Request, order: Order) -> Response:
    return templates.TemplateResponse(request, "order.html", {"order": order})


async def explained(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Show a refusal of the middleware's as a page; programs get it as it is."""
    response = await call_next(request)
    is_problem = response.headers.get("content-type") == "application/problem+json"
    if not is_problem or request.url.path.startswith("/api/"):
        return response
    body = b"".join([part async for part in response.body_iterator])  # type: ignore[attr-defined]
    page = {"problem": json.loads(body)}
    kept = {name: response.headers[name] for name in ("retry-after", "cache-control") if name in response.headers}
    return templates.TemplateResponse(request, "problem.html", page, response.status_code, kept)
