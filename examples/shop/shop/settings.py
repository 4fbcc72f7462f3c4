"""The settings of the shop. Those of Jobdeck are its own: they begin with JOBDECK_, and DATABASE_URL is for both."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHOP_")

    database_url: str = Field(default="postgresql://localhost/shop", validation_alias="DATABASE_URL")
    payments_url: str = "http://localhost:9000/payments"
    mails_url: str = "http://localhost:9000/mails"

    @property
    def sqlalchemy_url(self) -> URL:
        return make_url(self.database_url).set(drivername="postgresql+psycopg")
