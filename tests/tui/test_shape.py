"""How the first screen divides its terminal, as pictures: a letter stands for 5 columns."""

from __future__ import annotations

from itertools import groupby

import pytest

from jobdeck.tui.shape import Shape

LETTERS = {
    "header": "h", "now": "n", "plot": "p", "tabs": "t", "list": "l", "pane": "d", "peek": "f", "keys": "k",
}  # fmt: skip
PICTURES = {
    (60, 12): """
 1 hhhhhhhhhhhh
 2 nnnnnnnnnnnn
 1 tttttttttttt
 6 llllllllllll
 1 ffffffffffff
 1 kkkkkkkkkkkk
""",
    (80, 24): """
 1 hhhhhhhhhhhhhhhh
 2 nnnnnnnnnnnnnnnn
 1 tttttttttttttttt
18 llllllllllllllll
 1 ffffffffffffffff
 1 kkkkkkkkkkkkkkkk
""",
    (80, 35): """
 1 hhhhhhhhhhhhhhhh
 2 nnnnnnnnnnnnnnnn
 7 pppppppppppppppp
 1 tttttttttttttttt
17 llllllllllllllll
 5 dddddddddddddddd
 1 ffffffffffffffff
 1 kkkkkkkkkkkkkkkk
""",
    (120, 35): """
 1 hhhhhhhhhhhhhhhhhhhhhhhh
 8 nnnnnnnnnppppppppppppppp
 1 tttttttttttttttttttttttt
17 llllllllllllllllllllllll
 6 dddddddddddddddddddddddd
 1 ffffffffffffffffffffffff
 1 kkkkkkkkkkkkkkkkkkkkkkkk
""",
    (200, 24): """
 1 hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh
 2 nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn
 1 tttttttttttttttttttttttttttttttttttttttt
18 llllllllllllllllllllllllllllllllllllllll
 1 ffffffffffffffffffffffffffffffffffffffff
 1 kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
""",
    (200, 50): """
 1 hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh
10 nnnnnnnnnnnnnppppppppppppppppppppppppppp
 1 tttttttttttttttttttttttttttttttttttttttt
36 lllllllllllllllllllllllldddddddddddddddd
 1 ffffffffffffffffffffffffffffffffffffffff
 1 kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
""",
}


@pytest.mark.parametrize("size", PICTURES, ids=str)
def test_the_screen_is_divided_as_drawn(size: tuple[int, int]) -> None:
    assert picture(Shape(*size)) == PICTURES[size].strip("\n")


def test_without_the_pane_the_list_takes_its_place() -> None:
    for size in PICTURES:
        with_pane, without = Shape(*size).parts(), Shape(*size, pane=False).parts()
        assert "pane" not in without
        assert without["list"].width == size[0]
        assert without["list"].height >= with_pane["list"].height


def test_at_every_size_the_parts_cover_the_terminal_and_no_cell_twice() -> None:
    for width in range(60, 260, 7):
        for height in range(12, 70, 5):
            parts = Shape(width, height).parts().values()
            assert sum(part.width * part.height for part in parts) == width * height
            assert all(part.width > 0 and part.height > 0 for part in parts)


def picture(shape: Shape) -> str:
    rows = []
    for y in range(shape.height):
        row = [" "] * shape.width
        for name, part in shape.parts().items():
            if part.y <= y < part.y + part.height:
                row[part.x : part.x + part.width] = LETTERS[name] * part.width
        rows.append("".join(row[2::5]))
    return "\n".join(f"{len(list(same)):>2} {row}" for row, same in groupby(rows))
