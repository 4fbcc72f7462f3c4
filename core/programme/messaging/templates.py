"""The words of messages, from templates: the ones that come with Jobdeck, or a site's own that go before them.

A message's parts are files of one name: `NAME.subject` and `NAME.txt`, `NAME.html` where there is one, `NAME.sms`.
A site puts its own into the folder that `JOBDECK_TEMPLATES` names; files it leaves out stay as they are. In HTML
every value is escaped.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jinja2 import Environment

    from jobdeck.core.settings import Settings

LONGEST_SUBJECT: Final = 200
UNSUBSCRIBE_URL: Final = "<%asm_group_unsubscribe_raw_url%>"
"""What SendGrid replaces by each recipient's own link (its documentation, "Unsubscribe groups")."""


class TemplateError(PermanentError, ConfigurationError):
    """A template is missing or cannot be rendered."""

    kind = "template"


@dataclass(frozen=True, slots=True)
class Body:
    """A mail's words."""

    subject: str
    text: str
    html: str | None


def of(settings: Settings) -> Templates:
    """The templates that these settings ask for."""
    return _templates(settings.templates)


@lru_cache(maxsize=8)
def _templates(folder: Path | None) -> Templates:
    return Templates(folder)


class Templates:
    """The templates of one folder, and behind it those that come with Jobdeck. Safe between threads."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises `TemplateError` where the folder does not exist."""
        if folder is not None and not folder.is_dir():
            raise TemplateError(f"JOBDECK_TEMPLATES names {folder}, which is not a folder. Correct it or unset it.")
        self._environment = _environment(folder)

    def email(self, name: str, values: Mapping[str, Any]) -> Body:
        """A mail from the parts of this name; the subject is one line.

        Raises:
            TemplateError: a part is missing or uses a value that is not there.
        """
        subject = " ".join(self._render(f"{name}.subject", values).split())[:LONGEST_SUBJECT]
        return Body(subject, self.text(name, values), self.html(name, values))

    def text(self, name: str, values: Mapping[str, Any]) -> str:
        """The plain part.

        Raises:
            TemplateError: it is missing or uses a value that is not there.
        """
        return f"{self._render(f'{name}.txt', values).strip()}\n"

    def html(self, name: str, values: Mapping[str, Any]) -> str | None:
        """The HTML part; None where there is no such template.

        Raises:
            TemplateError: it uses a value that is not there.
        """
        from jinja2 import TemplateNotFound  # noqa: PLC0415 -- imported on first use

        try:
            self._environment.get_template(f"{name}.html")
        except TemplateNotFound:
            return None
        return self._render(f"{name}.html", values)

    def sms(self, name: str, values: Mapping[str, Any]) -> str:
        """A text message, on one line.

        Raises:
            TemplateError: it is missing or uses a value that is not there.
        """
        return " ".join(self._render(f"{name}.sms", values).split())

    def _render(self, name: str, values: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError as Failed  # noqa: PLC0415 -- imported on first use
        from jinja2 import TemplateNotFound  # noqa: PLC0415 -- imported on first use

        try:
            return self._environment.get_template(name).render(values)
        except TemplateNotFound as error:
            raise TemplateError(
                f"There is no template {error.name}. Put it back, or into the folder of JOBDECK_TEMPLATES."
            ) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TemplateError(
                f"The template {name} cannot be rendered ({type(error).__name__}). Correct it."
            ) from None
        except Failed as error:
            # Its text names places and variables of the template, and no values.
            raise TemplateError(
                f"The template {name} cannot be rendered ({type(error).__name__}: {error}). Correct it."
            ) from None


def _environment(folder: Path | None) -> Environment:
    from jinja2 import ChoiceLoader, FileSystemLoader, PackageLoader, StrictUndefined  # noqa: PLC0415 -- on first use
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 -- imported on first use

    own = [FileSystemLoader(folder)] if folder is not None else []
    environment = SandboxedEnvironment(
        loader=ChoiceLoader([*own, PackageLoader("jobdeck.core.programme", "templates")]),
        autoescape=lambda name: bool(name) and str(name).endswith(".html"),
        undefined=StrictUndefined,
        auto_reload=False,
    )
    environment.filters["gsm"] = gsm
    return environment


def gsm(text: str, most: int = 160) -> str:
    """The text in letters that a text message of one part can hold, or nothing where it has none of those."""
    from jobdeck.core.programme.vendors.sms import is_gsm  # noqa: PLC0415 -- imported on first use

    words = " ".join(text.split())
    if not is_gsm(words):
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
        words = " ".join(plain.split()) if len(plain) * 2 > len(words) else ""
    return words[:most].rstrip()


def markdown(text: str) -> str:
    """Markdown as HTML: tables and strike-through as GitHub has them, line breaks kept, HTML in it shown as text.

    Links that would run a script are left as text.
    """
    from markdown_it import MarkdownIt  # noqa: PLC0415 -- imported on first use

    reader = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    rendered: str = reader.render(text)
    return rendered


def announcement(templates: Templates, subject: str, body_markdown: str, body_html: str, *, unsubscribe: bool) -> Body:
    """A campaign's mail: its own words in the frame that the templates give.

    Raises:
        TemplateError: a template is missing or cannot be rendered.
    """
    from markupsafe import Markup  # noqa: PLC0415 -- imported on first use

    values = {
        "subject": subject,
        "text": body_markdown.strip(),
        "html": Markup(body_html),  # noqa: S704 -- made by markdown() above, or stored by an admin as the page to send
        "unsubscribe_url": Markup(UNSUBSCRIBE_URL) if unsubscribe else "",  # noqa: S704 -- a constant
    }
    words = " ".join(subject.split())[:LONGEST_SUBJECT]
    return Body(words, templates.text("announcement", values), templates.html("announcement", values))
