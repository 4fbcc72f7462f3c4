"""Renders messages from templates: a site's own, or else the ones that come with Jobdeck.

The parts of a message are the files `NAME.subject`, `NAME.txt`, `NAME.html` (optional) and `NAME.sms`. A site puts its
own files into the folder `JOBDECK_TEMPLATES`; for missing files the built-in ones are used. In HTML every value is
escaped.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from jobdeck.core.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from jinja2 import Environment
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token
    from markdown_it.utils import OptionsDict

    from jobdeck.core.programme.settings import CompetitionSettings

LONGEST_SUBJECT: Final = 200
UNSUBSCRIBE_URL: Final = "<%asm_group_unsubscribe_raw_url%>"
"""SendGrid replaces this by each recipient's own link (its documentation, "Unsubscribe groups")."""


class TemplateError(PermanentError, ConfigurationError):
    """A template is missing or cannot be rendered."""

    kind = "template"


@dataclass(frozen=True, slots=True)
class Body:
    """The subject and parts of a mail."""

    subject: str
    text: str
    html: str | None


def of(settings: CompetitionSettings) -> Templates:
    """The templates of these settings, cached."""
    return _templates(settings.templates, image_hosts(settings))


def image_hosts(settings: CompetitionSettings) -> frozenset[str]:
    """The hosts whose pictures campaigns show."""
    return frozenset(filter(None, settings.campaign_image_hosts.split(",")))


@lru_cache(maxsize=8)
def _templates(folder: Path | None, hosts: frozenset[str]) -> Templates:
    return Templates(folder, hosts)


class Templates:
    """The templates of one folder, with the built-in ones as fallback. Thread-safe."""

    def __init__(self, folder: Path | None = None, hosts: frozenset[str] = frozenset()) -> None:
        """With hosts whose pictures an announcement shows. Raises `TemplateError` if the folder does not exist."""
        if folder is not None and not folder.is_dir():
            raise TemplateError(f"JOBDECK_TEMPLATES names {folder}, which is not a folder. Correct it or unset it.")
        self._environment = _environment(folder)
        self.image_hosts = hosts

    def email(self, name: str, values: Mapping[str, Any]) -> Body:
        """Renders a mail; the subject is one line.

        Raises:
            TemplateError: a part is missing or uses an unknown value.
        """
        subject = " ".join(self._render(f"{name}.subject", values).split())[:LONGEST_SUBJECT]
        return Body(subject, self.text(name, values), self.html(name, values))

    def text(self, name: str, values: Mapping[str, Any]) -> str:
        """Renders the plain text part.

        Raises:
            TemplateError: it is missing or uses an unknown value.
        """
        return f"{self._render(f'{name}.txt', values).strip()}\n"

    def html(self, name: str, values: Mapping[str, Any]) -> str | None:
        """Renders the HTML part; None if there is no such template.

        Raises:
            TemplateError: it uses an unknown value.
        """
        from jinja2 import TemplateNotFound  # noqa: PLC0415 -- imported on first use

        try:
            self._environment.get_template(f"{name}.html")
        except TemplateNotFound:
            return None
        return self._render(f"{name}.html", values)

    def sms(self, name: str, values: Mapping[str, Any]) -> str:
        """Renders a text message, on one line.

        Raises:
            TemplateError: it is missing or uses an unknown value.
        """
        return " ".join(self._render(f"{name}.sms", values).split())

    def _render(self, name: str, values: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError as Failed  # noqa: PLC0415 -- imported on first use
        from jinja2 import TemplateNotFound  # noqa: PLC0415 -- imported on first use

        try:
            return self._environment.get_template(name).render(values)
        except TemplateNotFound as error:
            raise TemplateError(
                f"The template {error.name} is missing. Restore it, or put it into the folder JOBDECK_TEMPLATES."
            ) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TemplateError(
                f"The template {name} cannot be rendered ({type(error).__name__}). Correct it."
            ) from None
        except Failed as error:
            # The error's text contains lines and variables of the template, but no values.
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
    """The text in the GSM alphabet, so that it costs one segment; empty if most of it cannot be converted."""
    from jobdeck.core.programme.vendors.sms import is_gsm  # noqa: PLC0415 -- imported on first use

    words = " ".join(text.split())
    if not is_gsm(words):
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
        words = " ".join(plain.split()) if len(plain) * 2 > len(words) else ""
    return words[:most].rstrip()


TAGS: Final = {
    "a", "abbr", "b", "blockquote", "br", "caption", "center", "code", "col", "colgroup", "del", "div", "em", "h1",
    "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "li", "ol", "p", "pre", "q", "s", "small", "span", "strike",
    "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul",
}  # fmt: skip
"""What a campaign may use: the tags of texts, lists, tables and pictures. None of them runs anything, or asks."""
ATTRIBUTES: Final = {
    "a": {"href", "title"},
    "abbr": {"title"},
    "img": {"src", "alt", "title", "width", "height", "align"},
    "ol": {"start"},
    "table": {"align", "border", "cellpadding", "cellspacing", "width"},
    "td": {"align", "valign", "colspan", "rowspan", "width"},
    "th": {"align", "valign", "colspan", "rowspan", "width"},
}


def markdown(text: str, hosts: frozenset[str] = frozenset()) -> str:
    """Converts Markdown to HTML, with GitHub's tables and strike-through and with line breaks kept.

    HTML in the text keeps what `TAGS` and `ATTRIBUTES` name, and links to the web and to mail addresses; the rest of it
    is left out, scripts and styles with what is in them. An image becomes its description, because an image that a
    mail loads tells its server who reads the mail, and when; one over https from `hosts` stays.
    """
    import nh3  # noqa: PLC0415 -- imported on first use

    def kept(tag: str, name: str, value: str) -> str | None:
        return value if (tag, name) != ("img", "src") or _is_shown(value, hosts) else None

    return nh3.clean(
        _rendered(text, hosts),
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=kept,
        url_schemes={"http", "https", "mailto"},
        link_rel=None,
    )


def _rendered(text: str, hosts: frozenset[str]) -> str:
    """The HTML of a text, not yet safe."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 -- imported on first use

    reader = MarkdownIt("commonmark", {"html": True, "breaks": True}).enable(["table", "strikethrough"])
    reader.add_render_rule("image", _pictures(hosts))
    rendered: str = reader.render(text)
    return rendered


def _pictures(hosts: frozenset[str]) -> Callable[..., str]:
    from markdown_it.common.utils import escapeHtml  # noqa: PLC0415 -- imported on first use

    def picture(renderer: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: Any) -> str:
        shown = _is_shown(str(tokens[place].attrGet("src") or ""), hosts)
        return renderer.image(tokens, place, options, env) if shown else escapeHtml(tokens[place].content)

    return picture


def _is_shown(source: str, hosts: frozenset[str]) -> bool:
    """Whether a picture comes over https from one of these hosts, named without a port or a user."""
    try:
        address = urlsplit(source)
    except ValueError:
        return False
    return address.scheme == "https" and address.netloc.lower() in hosts


class _Parts(HTMLParser):
    """Counts the tags, attributes and comments of a text; of pictures those that come from somewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        self.found.update([f"<{tag}>", *names] if tag != "img" else ["img"] * ("src" in names))

    def handle_comment(self, data: str) -> None:  # noqa: ARG002 -- the name is the parser's
        self.found["comment"] += 1


def differences(body_markdown: str, sent: Body, hosts: frozenset[str] = frozenset()) -> list[str]:
    """What a mail does not show as the page that stored this text showed it, a sentence each.

    `hosts` are those whose pictures it shows.
    """
    from markdown_it import MarkdownIt  # noqa: PLC0415 -- imported on first use

    reader = MarkdownIt("commonmark", {"html": True, "breaks": True}).enable(["table", "strikethrough"])
    lost = _Parts(reader.render(body_markdown)).found - _Parts(markdown(body_markdown, hosts)).found
    pictures = lost.pop("img", 0)
    said = {
        f"Pictures are replaced by their descriptions ({pictures}).": pictures > 0,
        f"HTML that a mail must not have is left out ({lost.total()}).": lost.total() > 0,
        "The template adds words to the text, such as why somebody gets the mail.": (
            sent.text.strip() != body_markdown.strip()
        ),
    }
    return [sentence for sentence, holds in said.items() if holds]


def announcement(templates: Templates, subject: str, body_markdown: str, *, unsubscribe: bool) -> Body:
    """Renders a campaign's mail: its own text, in Markdown, inside the template `announcement`.

    Raises:
        PermanentError: the campaign has no text.
        TemplateError: a template is missing or cannot be rendered.
    """
    if not body_markdown.strip():
        raise PermanentError(
            "The campaign has no Markdown text, and stored HTML is not sent. Write its text into body_markdown, or "
            "create it again with `jobdeck campaign create`."
        )
    from markupsafe import Markup  # noqa: PLC0415 -- imported on first use

    values = {
        "subject": subject,
        "text": body_markdown.strip(),
        "html": Markup(markdown(body_markdown, templates.image_hosts)),  # noqa: S704 -- cleaned
        "unsubscribe_url": Markup(UNSUBSCRIBE_URL) if unsubscribe else "",  # noqa: S704 -- a constant
    }
    words = " ".join(subject.split())[:LONGEST_SUBJECT]
    return Body(words, templates.text("announcement", values), templates.html("announcement", values))
