"""The web application: each route stores its rows and enqueues its jobs in one transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, NonNegativeInt
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import jobdeck
from shop import tasks
from shop.models import Order, Product
from shop.settings import Settings


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = create_async_engine(Settings().sqlalchemy_url, hide_parameters=True)
    yield
    await app.state.engine.dispose()


app = FastAPI(lifespan=lifespan)


class NewProduct(BaseModel):
    name: str
    cents: NonNegativeInt
    stock: NonNegativeInt


class NewOrder(BaseModel):
    product: int
    customer: int


@app.put("/products/{number}", status_code=204)
async def put_product(number: int, product: NewProduct, request: Request) -> None:
    async with AsyncSession(request.app.state.engine) as session, session.begin():
        await session.merge(Product(id=number, **product.model_dump()))
        # Ten changes in a row are one run, ten seconds after the last, and a minute after the first at the latest.
        await tasks.index_product.aenqueue(
            session,
            tasks.ProductRef(product=number),
            dedupe_key=f"index product {number}",
            dedupe="replace",
            run_at=datetime.now(UTC) + timedelta(seconds=10),
            longest_wait=timedelta(minutes=1),
        )


@app.post("/orders", status_code=202)
async def post_order(new: NewOrder, request: Request) -> dict[str, int]:
    async with AsyncSession(request.app.state.engine) as session, session.begin():
        product = await session.get(Product, new.product)
        if product is None:
            raise HTTPException(422, "There is no such product.")
        order = Order(product=product.id, customer=new.customer)
        session.add(order)
        await session.flush()  # gives the order its id
        await jobdeck.aenqueue_flow(session, order_flow(order.id, product.cents))
        return {"order": order.id}


@app.get("/orders/{number}")
async def get_order(number: int, request: Request) -> dict[str, str | None]:
    async with AsyncSession(request.app.state.engine) as session:
        order = await session.get(Order, number)
    if order is None:
        raise HTTPException(404, "There is no such order.")
    return {"state": order.state, "label": order.label}


def order_flow(order: int, cents: int) -> jobdeck.Flow:
    """The steps of an order. If one fails permanently, `undo_order` undoes those before it, and none can be retried."""
    ref, payment = tasks.OrderRef(order=order), tasks.Charge(order=order, cents=cents)
    flow = jobdeck.Flow(f"order {order}")
    taken = flow.add("take", tasks.take_from_stock, ref)
    charged = flow.add("charge", tasks.charge, payment, after=taken)
    flow.add("label", tasks.draw_label, ref, after=charged)
    flow.on_success(tasks.confirm, ref)
    flow.on_failure(tasks.undo_order, payment, final=True)
    return flow
