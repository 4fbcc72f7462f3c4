"""Exceptions that are raised in a thread from outside, as libraries do that limit the time of a handler."""

from __future__ import annotations

import ctypes
import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class TookTooLong(BaseException):
    """What a library raises in the thread of a handler to limit its time."""


def interrupt(thread: int | None) -> None:
    """Raises an exception in the thread with this identifier, at its next step."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread or 0), ctypes.py_object(TookTooLong))


def interrupted_at(step: int, file: str | None, work: Callable[[], object]) -> bool:
    """Does something that is interrupted before a line of a file, counted from 0; False if it is over before.

    The lines of `with` do not count: Python raises no such exception between the end of a block and what ends it.
    """
    left = step

    def trace(frame: FrameType, event: str, _given: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != file:
            return None
        if event == "line" and not linecache.getline(str(file), frame.f_lineno).lstrip().startswith("with "):
            left -= 1
            if left == -1:
                raise TookTooLong
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        work()
    except TookTooLong:
        return True
    finally:
        sys.settrace(before)
    return left < 0
