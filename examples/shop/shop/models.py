"""The tables of the shop. `python -m shop.models` creates them; a real shop has migrations."""

from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.settings import Settings


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    cents: Mapped[int]
    stock: Mapped[int]
    words: Mapped[str] = mapped_column(default="")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[int] = mapped_column(ForeignKey("products.id"))
    customer: Mapped[int]
    state: Mapped[str] = mapped_column(default="new")
    label: Mapped[str | None]


def create_tables() -> None:
    engine = create_engine(Settings().sqlalchemy_url)
    Base.metadata.create_all(engine)
    engine.dispose()


if __name__ == "__main__":
    create_tables()
