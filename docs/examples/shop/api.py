"""The API for programs. They send an Idempotency-Key with each POST, and the same one when they send it again."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from idemtable.web.fastapi import session

from .models import NewOrder, Order, order_of, orders_of, place


class Receipt(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    item: str
    quantity: int
    cents: int


class Refusal(BaseModel):
    detail: str


OrderId = Annotated[int, Path(ge=1, le=2**31 - 1)]  # what the column holds
# It only tells OpenAPI: who is not known has been refused before.
bearer = Depends(HTTPBearer(auto_error=False))
router = APIRouter(prefix="/api", dependencies=[bearer], responses={401: {"model": Refusal}})


@router.post("/orders", status_code=201)
def create(
    request: Request, response: Response, new: NewOrder, session: Annotated[Session, Depends(session)]
) -> Receipt:
    order = place(session, request.user.username, new)
    response.headers["Location"] = f"/api/orders/{order.id}"
    return Receipt.model_validate(order)


@router.get("/orders")
def orders(request: Request) -> list[Receipt]:
    with Session(request.app.state.engine) as reading:
        return [Receipt.model_validate(order) for order in orders_of(reading, request.user.username)]


@router.get("/orders/{order_id}", responses={404: {"model": Refusal}})
def order(request: Request, order_id: OrderId) -> Receipt:
    with Session(request.app.state.engine) as reading:
        found: Order | None = order_of(reading, request.user.username, order_id)
        if found is None:
            raise HTTPException(404, "You have no such order")
        return Receipt.model_validate(found)
