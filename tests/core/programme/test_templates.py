"""The words of messages: from templates that a site can change, and never what somebody smuggled in."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobdeck.core.errors import ConfigurationError, PermanentError
from jobdeck.core.programme.messaging import templates as messaging_templates
from jobdeck.core.programme.messaging.templates import Body, TemplateError, Templates, gsm, markdown
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors.sms import is_gsm

HARMFUL = {
    "script", "style", "iframe", "form", "input", "svg", "math", "link", "meta", "video", "base", "noscript", "evil",
    "onload", "onclick", "onerror", "class", "id", "srcset", "poster", "background", "action", "http-equiv",
}  # fmt: skip
NOTICE = {"name": "Ann", "count": 3}
PARTS = {
    "notice.subject": "{{ count }} things\n for {{ name }}",
    "notice.txt": "Hello {{ name }}, {{ count }} things.",
    "notice.html": "<p>Hello {{ name }}</p>",
    "notice.sms": "{{ name | gsm(20) }}:\n{{ count }}",
}


class Reader(HTMLParser):
    """The tags of a text and their attributes, as a mail program reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site's own templates."""
    for name, words in PARTS.items():
        (tmp_path / name).write_text(words, encoding="utf-8")
    return tmp_path


def test_a_message_is_made_of_its_parts(folder: Path) -> None:
    templates = Templates(folder)
    assert templates.email("notice", NOTICE) == Body("3 things for Ann", "Hello Ann, 3 things.\n", "<p>Hello Ann</p>")
    assert templates.sms("notice", NOTICE) == "Ann: 3"


def test_a_message_may_have_no_html(folder: Path) -> None:
    (folder / "notice.html").unlink()
    assert Templates(folder).email("notice", NOTICE).html is None


@pytest.mark.parametrize("name", ["Ann", "Žofie", "Łukasz Przybyszewski-Konstantynopolitański", "王小明", "", "😀"])
def test_a_name_in_a_text_message_costs_no_second_part(name: str) -> None:
    assert is_gsm(gsm(name, 20))
    assert len(gsm(name, 20)) <= 20


@pytest.mark.parametrize(
    ("text", "plain"), [("Ann", "Ann"), ("Zoe\u0301", "Zoe"), ("Žofie", "Zofie"), ("王小明", ""), ("a\n b", "a b")]
)
def test_names_are_written_in_letters_of_one_part(text: str, plain: str) -> None:
    assert gsm(text) == plain


def test_values_are_escaped_in_html_and_not_in_text(folder: Path) -> None:
    body = Templates(folder).email("notice", NOTICE | {"name": "<b>Ann</b>"})
    assert body.html == "<p>Hello &lt;b&gt;Ann&lt;/b&gt;</p>"
    assert "<b>Ann</b>" in body.text


def test_a_site_puts_its_own_words_before_ours_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "announcement.txt").write_text("Our own: {{ text }}", encoding="utf-8")
    own = messaging_templates.of(CompetitionSettings(JOBDECK_TEMPLATES=tmp_path))
    made, ours = (
        messaging_templates.announcement(templates, "News", "*Hi*", unsubscribe=False)
        for templates in (own, Templates())
    )
    assert made.text == "Our own: *Hi*\n"
    assert made.html == ours.html


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="JOBDECK_TEMPLATES"):
        Templates(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{{ nmae }}", "nmae"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ name.__class__.__mro__ }}", "SecurityError"),
        ("{{ count / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_broken_template_is_for_good_and_says_which_and_why(tmp_path: Path, words: str, says: str) -> None:
    (tmp_path / "notice.txt").write_text(words, encoding="utf-8")
    with pytest.raises(TemplateError, match=says) as caught:
        Templates(tmp_path).text("notice", NOTICE | {"name": "zzname"})
    assert "notice.txt" in str(caught.value)
    assert "zzname" not in str(caught.value)
    assert isinstance(caught.value, PermanentError)
    assert isinstance(caught.value, ConfigurationError)


def test_a_template_that_is_missing_is_named() -> None:
    with pytest.raises(TemplateError, match=r"The template nothing\.subject"):
        Templates().email("nothing", {})


def test_markdown_has_tables_and_line_breaks_and_no_scripts() -> None:
    html = markdown("one\ntwo\n\n|a|b|\n|-|-|\n|1|2|\n\n~~old~~ <img src=x onerror=y> [x](javascript:alert(1))")
    assert "one<br>\ntwo" in html
    assert "<table>" in html
    assert "<s>old</s>" in html
    assert "onerror" not in html
    assert " src" not in html
    assert 'href="javascript' not in html


def test_html_keeps_the_tags_of_texts_lists_tables_and_pictures() -> None:
    shown = (
        '<div><h2>News</h2><p>A <b>bold</b> <u>word</u>, <a href="https://example.org/a?b=1&amp;c=2">a page</a> and '
        '<a href="mailto:team@example.org">a mail</a>.</p><ol start="3"><li>one</li></ol>'
        '<table width="600"><tbody><tr><td align="center" colspan="2">two</td></tr></tbody></table></div>'
    )
    assert markdown(shown) == shown
    picture = '<img src="https://images.example.org/1.png" alt="the venue" width="300">'
    whole = {("src", "https://images.example.org/1.png"), ("alt", "the venue"), ("width", "300")}
    assert set(Reader(markdown(picture, frozenset({"images.example.org"}))).attributes) == whole
    assert set(Reader(markdown(picture, frozenset({"other.example.org"}))).attributes) == whole - {
        ("src", "https://images.example.org/1.png")
    }


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>", "<style>p { background: url(https://evil.example/1) }</style>", "<svg onload=x>",
        '<p style="background: url(https://evil.example/1)" class="x" id="x" onclick="x">a</p>', "<a href=data:x>a</a>",
        '<iframe src="https://evil.example"></iframe>', '<form action="https://evil.example"><input name="a"></form>',
        '<img src="https://evil.example/1.png" srcset="https://evil.example/2.png 2x">', "<!-- evil --><!DOCTYPE evil>",
        '<link rel="stylesheet" href="https://evil.example">', '<meta http-equiv="refresh" content="0; evil">',
        '<a href="java&#115;cript:evil()">a</a>', '<a href=" javascript:evil()">a</a>', "<math><mtext><evil></math>",
        '<video poster="https://evil.example/1"></video>', '<table background="https://evil.example/1"></table>',
        '<base href="https://evil.example">', "<noscript><p title='</noscript><img src=evil onerror=evil>'>", "<evil",
    ],
)  # fmt: skip
def test_html_loads_runs_and_asks_nothing(hostile: str) -> None:
    html = markdown(f"before\n\n{hostile}\n\nafter", frozenset({"images.example.org"}))
    assert "before" in html
    read = Reader(html)
    assert not HARMFUL & {*read.tags, *(name for name, _ in read.attributes)}
    assert not [value for _, value in read.attributes if re.match(r"\s*(javascript|data):|https://evil", value)]


def test_an_image_is_its_description_and_loads_nothing() -> None:
    html = markdown(
        "![the <venue>](https://track.example.org/1.gif) [![x](https://track.example.org/2.gif)](https://example.org)\n\n"
        "![again][ref] ![](data:image/png;base64,AA)\n\n[ref]: https://track.example.org/3.gif"
    )
    assert "<img" not in html
    assert "track.example.org" not in html
    assert "the &lt;venue&gt;" in html
    assert '<a href="https://example.org">x</a>' in html
    assert "again" in html


def test_a_picture_is_shown_over_https_from_a_host_that_the_settings_name() -> None:
    hosts = frozenset({"images.example.org"})
    shown = '![the "bay"](https://IMAGES.example.org/logo.png \'a "title"\')'
    assert markdown(shown, hosts) == (
        '<p><img src="https://IMAGES.example.org/logo.png" alt="the &quot;bay&quot;" title="a &quot;title&quot;"></p>\n'
    )
    assert "<img" not in markdown(shown)
    for other in (
        "http://images.example.org/1.png", "//images.example.org/1.png", "/1.png", "images.example.org/1.png",
        "https://images.example.org.evil.example/1.png", "https://images.example.org@evil.example/1.png",
        "https://x@images.example.org/1.png", "https://images.example.org:8443/1.png", "https://evil.example/1.png",
        "https://evil.example/images.example.org", "data:image/png;base64,AA", "https://[images.example.org/1.png",
    ):  # fmt: skip
        assert "<img" not in markdown(f"![x](<{other}>)", hosts), other


def test_pictures_that_are_shown_are_no_difference() -> None:
    templates = Templates(hosts=frozenset({"images.example.org"}))
    text = "![a](https://images.example.org/1.png) ![b](https://other.example.org/2.png)"
    sent = messaging_templates.announcement(templates, "News", text, unsubscribe=True)
    assert '<img src="https://images.example.org/1.png"' in (sent.html or "")
    assert "other.example.org" not in (sent.html or "")
    assert messaging_templates.differences(text, sent, templates.image_hosts)[0] == (
        "Pictures are replaced by their descriptions (1)."
    )


@pytest.mark.parametrize(
    "hosts", ["https://images.example.org", "images.example.org/a", "*", "a b.example", "localhost", "x:443"]
)
def test_hosts_of_pictures_that_are_no_names_are_refused(hosts: str) -> None:
    with pytest.raises(ValueError, match="must be names of hosts like images"):
        CompetitionSettings(CAMPAIGN_IMAGE_HOSTS=hosts)


def test_hosts_of_pictures_are_separated_by_commas() -> None:
    settings = CompetitionSettings(CAMPAIGN_IMAGE_HOSTS=" Images.example.org , cdn.example.org,")
    assert messaging_templates.image_hosts(settings) == {"images.example.org", "cdn.example.org"}


def test_an_announcement_that_differs_from_its_page_says_how(tmp_path: Path) -> None:
    def said(text: str) -> list[str]:
        sent = messaging_templates.announcement(templates, "News", text, unsubscribe=True)
        return messaging_templates.differences(text, sent)

    templates = Templates()
    added = "The template adds words to the text, such as why somebody gets the mail."
    assert said("*Hello* [x](https://example.org) 1 < 2 & 3 > 2") == [added]
    assert said("![logo](https://example.org/1.png)\n\n[![a](https://example.org/2.png)](https://example.org)") == [
        "Pictures are replaced by their descriptions (2).",
        added,
    ]
    assert said("<div>\n<b>Hello</b>\n</div>\n\nA <u>word</u>, <img src='https://example.org/1.png'>") == [
        "Pictures are replaced by their descriptions (1).",
        added,
    ]
    assert said('<div style="x"><!-- a --><form><b>Hello</b></form></div>\n\nA <blink>word</blink>') == [
        "HTML that a mail must not have is left out (4).",
        added,
    ]
    (tmp_path / "announcement.txt").write_text("{{ text }}", encoding="utf-8")
    templates = Templates(tmp_path)
    assert said("*Hello*") == []


def test_an_announcement_has_its_words_in_both_parts_and_the_unsubscribe_link() -> None:
    body = messaging_templates.announcement(Templates(), " News\n today ", "*Hi*", unsubscribe=True)
    assert body.subject == "News today"
    assert body.text.startswith("*Hi*")
    assert "<em>Hi</em>" in (body.html or "")
    for part in (body.text, body.html or ""):
        assert messaging_templates.UNSUBSCRIBE_URL in part
    bare = messaging_templates.announcement(Templates(), "News", "*Hi*", unsubscribe=False)
    assert "nsubscribe" not in bare.text
