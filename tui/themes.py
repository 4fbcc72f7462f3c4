"""The dashboard's own themes: dark, light, high contrast. For 16 colours there are Textual's ansi themes, changed.

Each theme has values of its own for terminals with 256 colours, where the nearest of the palette to a dark grey would
be a blue or black.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from textual.theme import BUILTIN_THEMES, Theme

DARK: Final = Theme(
    name="jobdeck-dark",
    primary="#6CA8D9",
    secondary="#8A93A3",
    accent="#5FB3B3",
    success="#8FBF7F",
    warning="#E0B45C",
    error="#E5697A",
    foreground="#D5DAE1",
    background="#14171C",
    surface="#1A1E25",
    panel="#232933",
    variables={
        "ink-muted": "#7C8696",
        "ink-head": "#98A3B3",
        "cursor-background": "#2A3646",
        "border": "#46536A",
    },
)
LIGHT: Final = Theme(
    name="jobdeck-light",
    primary="#1F5F99",
    secondary="#5A6472",
    accent="#0F6E6E",
    success="#2E7031",
    warning="#8A5A00",
    error="#B3243A",
    foreground="#1E232A",
    background="#FAFAF7",
    surface="#F1F1EC",
    panel="#E5E6E0",
    dark=False,
    variables={
        "ink-muted": "#626B77",
        "ink-head": "#4C5561",
        "cursor-background": "#D5E2EE",
        "border": "#A9B3BF",
    },
)
CONTRAST: Final = Theme(
    name="jobdeck-contrast",
    primary="#7FD4FF",
    secondary="#FFFFFF",
    accent="#5CFFF0",
    success="#6CFF6C",
    warning="#FFE14D",
    error="#FF8080",
    foreground="#FFFFFF",
    background="#000000",
    surface="#000000",
    panel="#1C1C1C",
    variables={
        "ink-muted": "#C8C8C8",
        "ink-head": "#FFFFFF",
        "cursor-background": "#00409A",
        "border": "#FFFFFF",
    },
)
THEMES: Final = (DARK, LIGHT, CONTRAST)
OF_256: Final = (
    replace(
        DARK,
        primary="#87AFD7",
        secondary="#8A8A8A",
        accent="#5FD7D7",
        success="#87D787",
        warning="#D7AF5F",
        error="#FF8787",
        foreground="#D0D0D0",
        background="#1C1C1C",
        surface="#262626",
        panel="#303030",
        variables={
            "ink-muted": "#949494",
            "ink-head": "#949494",
            "cursor-background": "#3A3A3A",
            "border": "#585858",
        },
    ),
    replace(
        LIGHT,
        primary="#005F87",
        secondary="#626262",
        accent="#005F5F",
        success="#005F00",
        warning="#875F00",
        error="#AF0000",
        foreground="#262626",
        background="#FFFFFF",
        surface="#FFFFFF",
        panel="#E4E4E4",
        variables={
            "ink-muted": "#626262",
            "ink-head": "#4E4E4E",
            "cursor-background": "#AFD7FF",
            "border": "#949494",
        },
    ),
    replace(
        CONTRAST,
        primary="#87D7FF",
        accent="#5FFFFF",
        success="#5FFF5F",
        warning="#FFFF5F",
        error="#FF8787",
        panel="#1C1C1C",
        variables={
            "ink-muted": "#C6C6C6",
            "ink-head": "#FFFFFF",
            "cursor-background": "#0000AF",
            "border": "#FFFFFF",
        },
    ),
)
"""The same themes in values of the 256-colour palette: ground 234, heading 236 and cursor 237 in the dark one."""
_ANSI_DARK: Final = BUILTIN_THEMES["ansi-dark"]
_ANSI_LIGHT: Final = BUILTIN_THEMES["ansi-light"]
OF_16: Final = (
    replace(_ANSI_DARK, primary="ansi_cyan", variables={**_ANSI_DARK.variables, "border": "ansi_bright_black"}),
    replace(_ANSI_LIGHT, variables={**_ANSI_LIGHT.variables, "border": "ansi_bright_black"}),
)
"""Textual's own with grey frames, and without its dark blue, which few terminals show well on black."""
CHOICES: Final = (*(theme.name for theme in THEMES), "ansi-dark", "ansi-light")
"""All themes in the order of the key that switches them. The last two use the terminal's own 16 colours."""


def word(name: str) -> str:
    """The value of JOBDECK_THEME for a theme."""
    return name.removeprefix("jobdeck-")


def of(*, few_colours: bool) -> tuple[Theme, ...]:
    """The themes for the terminal, by the same names; `few_colours` means 256."""
    return (*(OF_256 if few_colours else THEMES), *OF_16)


FALLBACKS: Final = {
    "ink-muted": "ansi_bright_black",
    "ink-head": "ansi_default",
    "cursor-background": "ansi_blue",
    "border": "ansi_bright_black",
}
"""Values of the variables above for themes that do not define them."""
