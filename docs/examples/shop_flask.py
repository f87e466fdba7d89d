"""The shop once more, with Flask and in one file: ``python shop_flask.py``, then http://127.0.0.1:5000."""

import os
import secrets
from datetime import timedelta
from typing import Any

import flask
from flask import Flask, g, redirect, render_template_string, request
from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import idemtable.web.flask
from idemtable import IdemTable

PRICES = {"tea": 390, "coffee": 520, "cake": 450}  # in cents
PAGE = """
<!doctype html>
<title>Shop</title>
<h1>The shop</h1>
<form method="post" action="/checkout">
  <input type="hidden" name="token" value="{{ token }}">
  <select name="item">{% for item in prices %}<option>{{ item }}</option>{% endfor %}</select>
  <input type="number" name="quantity" min="1" max="99" value="1">
  <button>Buy</button>
</form>
<h2>Your orders</h2>
<ul>{% for order in orders %}<li>Order {{ order.id }}: {{ order.quantity }} × {{ order.item }}</li>{% endfor %}</ul>
"""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(100), index=True)
    item: Mapped[str] = mapped_column(String(50))
    quantity: Mapped[int]
    cents: Mapped[int]


def visitor(_: Any = None) -> str | None:
    return flask.session.get("visitor")


def create_app(url: str) -> Flask:
    engine = create_engine(url)
    idem = IdemTable(engine)
    tokens = idem.tokens("shop.checkout", ttl=timedelta(minutes=30))
    Base.metadata.create_all(engine)
    idem.create_all()  # a shop that has migrations has them make the table

    app = Flask(__name__)
    app.secret_key = os.environ.get("SHOP_SECRET") or secrets.token_urlsafe()
    # A person sees a refusal as it is: a program's problem details.
    idemtable.web.flask.init_app(app, idem, tenant=visitor, tokens=tokens, required=True)

    @app.get("/")
    def shop() -> Any:
        if "visitor" not in flask.session:
            flask.session["visitor"] = secrets.token_urlsafe(16)
            return redirect("/welcome")  # so that the form is asked for with the cookie, and kept for whoever goes back
        with Session(engine) as reading:
            mine = select(Order).where(Order.customer == visitor()).order_by(Order.id.desc())
            orders = reading.scalars(mine).all()
        page = render_template_string(PAGE, prices=PRICES, orders=orders, token=tokens.issue(visitor()))
        return page, {"Cache-Control": "private, no-cache"}

    @app.get("/welcome")
    def welcome() -> Any:
        return redirect("/") if "visitor" in flask.session else ("This shop knows you by a cookie", 400)

    @app.post("/checkout")
    def buy() -> Any:
        item, quantity = request.form["item"], request.form.get("quantity", 1, int)
        if item not in PRICES or not 1 <= quantity <= 99:
            return "There is no such thing", 422
        g.session.add(Order(customer=visitor(), item=item, quantity=quantity, cents=PRICES[item] * quantity))
        return redirect("/", 303)

    return app


if __name__ == "__main__":
    create_app(os.environ.get("SHOP_URL", "sqlite:///shop-flask.db")).run(threaded=True)
