import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from poolax._signals import PreemptedError, stop_asked, stop_if_asked, taking_signals
from poolax.training import stop_on_sigterm

# A program whose main thread waits, as for XLA's compiler, in a file of that name or another.
WAITING = """
import sys, time
from poolax import _signals
_signals._PATIENCE = 0.3
waiting = compile("print('waiting', flush=True); time.sleep(60)", sys.argv[2], "exec")
try:
    with _signals.taking_signals():
        watch = _signals.Watch("program")
        watch.saves = sys.argv[1] == "saves"
        with watch():
            exec(waiting)
except KeyboardInterrupt:
    sys.exit(75)
"""
HEARD = "stops once its state is saved; a second signal ends it at once\n"


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """A shell that starts tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_raises(number):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert not stop_asked()
    with taking_signals() as flag:
        signal.raise_signal(number)
        assert flag.is_set()
        assert stop_asked()
        with pytest.raises(PreemptedError, match="stopped by a signal"):
            stop_if_asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert flag.is_set()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert not stop_asked()


def test_blocks_within_each_other_have_one_flag():
    heard = []

    def listen(*signals):
        with stop_on_sigterm() as should_stop:
            for number in signals:
                signal.raise_signal(number)
            heard.append(should_stop())

    with taking_signals() as outer:
        with pytest.raises(PreemptedError):
            listen(signal.SIGTERM)
        assert outer.is_set()
        with pytest.raises(PreemptedError):
            listen()
    listen()
    assert heard == [True, True, False]


def test_another_thread_hears_of_it():
    heard = []

    def listen():
        with stop_on_sigterm() as should_stop:
            heard.append(should_stop())

    def in_thread():
        try:
            listen()
        except PreemptedError:
            heard.append("stopped")

    with taking_signals():
        signal.raise_signal(signal.SIGTERM)
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
    assert heard == [True, "stopped"]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with taking_signals() as flag:
            signal.raise_signal(signal.SIGINT)
            assert not flag.is_set()
            signal.raise_signal(signal.SIGTERM)
            assert flag.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_signal_is_lost_in_the_garbage_collector():
    def callback(phase, info):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    with taking_signals() as flag:
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        assert flag.is_set()


def start(*arguments):
    # A shell's background jobs ignore Ctrl-C, and so would their children.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", listen + WAITING, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


@pytest.mark.parametrize(
    ("saves", "file", "signals", "told"),
    [
        ("no", "x.py", [signal.SIGINT], "program: interrupted\n"),
        ("no", "x.py", [signal.SIGTERM], "program: interrupted\n"),
        ("saves", "x.py", [signal.SIGINT, signal.SIGTERM], f"program: {HEARD}"),
        (
            "saves",
            os.path.join("jax", "_src", "compiler.py"),
            [signal.SIGTERM, signal.SIGTERM],
            f"program: compiling a program; {HEARD}",
        ),
    ],
)
def test_a_wait_is_told_of_and_ended(saves, file, signals, told):
    process = start(saves, file)
    try:
        first, *others = signals
        process.send_signal(first)
        for number in others:
            assert process.stderr.readline() == told
            time.sleep(0.1)
            assert process.poll() is None
            process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert rest == ("" if others else told)
