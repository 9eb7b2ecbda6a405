"""Signals become one exception inside a run and one line with the right exit status at a command."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from fuxictr_multimodal.system import interruption
from fuxictr_multimodal.system.command import command
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.mark.parametrize("name", STATUS)
def test_a_signal_is_raised_and_the_handlers_are_restored(name):
    number = signal.Signals[name]
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as caught, raised_on_signals():
            os.kill(os.getpid(), number)
        assert (caught.value.number, caught.value.exit_status) == (number, STATUS[name])
        assert isinstance(caught.value, KeyboardInterrupt)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_repetition_is_the_same_request(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with raised_on_signals():
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.setattr(interruption, "REPEAT_SECONDS", 0.0)
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("made", [RuntimeError("not supported"), KeyboardInterrupt()])
def test_an_error_that_other_code_makes_of_it_is_the_interruption(made):
    def unsupported():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise made from None

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as caught, raised_on_signals():
            unsupported()
        assert caught.value.number == signal.SIGTERM
        with pytest.raises(RuntimeError), raised_on_signals():
            raise RuntimeError("of its own")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_the_handlers_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def look():
        with raised_on_signals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [before]


def test_an_interruption_can_say_what_is_left(capsys):
    with pytest.raises(SystemExit) as ended, command():
        raise Interrupted.of(KeyboardInterrupt(), "x.state: --resume")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted by SIGINT: x.state: --resume\n"
    assert Interrupted.of(Interrupted(signal.SIGHUP), "x").number is signal.SIGHUP


@pytest.mark.parametrize("name", STATUS)
def test_a_command_ends_with_one_line(name):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from fuxictr_multimodal.system.command import command\n"
        "with command():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (STATUS[name], f"interrupted by {name}\n")
