"""The vendor's words and ours: categories, divisions, account statuses. Pure functions."""

from __future__ import annotations

import re
from typing import Final, Literal

Division = Literal["high_school", "middle_school", "college"]

ACTIVE_STATUSES: Final = frozenset({"approved", "user_created"})
"""An account in one of these can have competitors and teams added to it."""

_KNOWN_STATUSES: Final = frozenset({"pending", "user_created", "pending_approval", "approved", "denied", "error"})
_CATEGORIES: Final = {
    "crypto": "Cryptography",
    "cryptography": "Cryptography",
    "foren": "Forensics",
    "forensics": "Forensics",
    "reven": "Reverse Engineering",
    "reversing": "Reverse Engineering",
    "reverse engineering": "Reverse Engineering",
    "binexp": "Binary Exploitation",
    "binary exploitation": "Binary Exploitation",
    "osint": "OSINT",
    "web": "Web",
    "os": "Operating Systems",
    "operating system": "Operating Systems",
    "operating systems": "Operating Systems",
    "misc": "Miscellaneous",
    "miscellaneous": "Miscellaneous",
}
_DIVISIONS: Final[dict[str, Division]] = {
    "high_school": "high_school",
    "highschool": "high_school",
    "high-school": "high_school",
    "middle_school": "middle_school",
    "middleschool": "middle_school",
    "middle-school": "middle_school",
    "college": "college",
}


def category_label(category: str | None) -> str | None:
    """What dashboards call a challenge category; None for an empty one."""
    words = " ".join(re.sub(r"[_-]+", " ", category or "").lower().split())
    return _CATEGORIES.get(words) or words.title() or None


def division(text: str | None) -> Division:
    """The vendor's division for ours; high school where it is unknown."""
    return _DIVISIONS.get((text or "").strip().lower(), "high_school")


def account_status(remote: str, *, logged_in: bool = False) -> str:
    """Our status for the vendor's: an account that was only created is approved once its owner has logged in."""
    if remote == "user_created" and logged_in:
        return "approved"
    return remote if remote in _KNOWN_STATUSES else "pending"
