"""Waiting for signals: no signal is lost, whatever the main thread does when it arrives."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading

import pytest

from jobdeck.core.cli.signals import Stop, stop_signals
from tests.support.waiting import PATIENCE, until

WAITS_BLOCKED = """
import signal, threading
from jobdeck.core.cli.signals import stop_signals

with stop_signals() as stop:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    # Now the kernel gives the signal to the other thread, as it may at any time.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("ready", flush=True)
    stop.wait()
    print("asked" if stop.asked else "not asked", flush=True)
"""


def test_a_signal_that_another_thread_takes_ends_the_wait() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS_BLOCKED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        try:
            out, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert out == "asked\n"


def test_a_thread_that_read_the_number_of_a_signal_before_its_handler_ran_does_not_wait_on() -> None:
    with stop_signals() as stop:
        waiting = threading.Thread(target=stop.wait, daemon=True)
        waiting.start()
        stop._wakes.send(bytes([signal.SIGTERM]))  # what the interpreter does before it calls the handler
        until(lambda: not select.select([stop._woken], [], [], 0)[0], "the thread to read it")
        assert waiting.is_alive()
        stop(signal.SIGTERM, None)
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_each_wait_uses_up_one_event() -> None:
    with stop_signals() as stop:
        stop.end()
        signal.raise_signal(signal.SIGHUP)
        stop.wait()
        stop.wait()
        stop.wait(0.01)
        assert stop.asked
        threading.Timer(0.01, stop.end).start()
        stop.wait()


@pytest.mark.slow
def test_more_events_than_the_socket_holds_lose_none() -> None:
    stop = Stop()
    for _ in range(100_000):
        stop.end()
    for _ in range(100_000):
        stop.wait()
    stop.close()
    stop.end()
