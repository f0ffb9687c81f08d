"""Signals that end a program: they clean up like Ctrl-C, once, and are left as they were."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from icd_engine.endings import SIGNALS, Ended, ended_by_signals, exit_code

NAMES = [signal.Signals(number).name for number in SIGNALS]


@pytest.fixture(autouse=True)
def as_in_a_program():
    """Handlers as a program begins with them; the tests' own come back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_interrupts_and_is_known(name):
    number = getattr(signal, name)
    before = [signal.getsignal(other) for other in SIGNALS]
    with pytest.raises(KeyboardInterrupt) as caught, ended_by_signals() as ending:
        signal.raise_signal(number)
    assert isinstance(caught.value, Ended)
    assert (ending.number, ending.code, ending.name) == (number, 128 + number, name)
    assert [signal.getsignal(other) for other in SIGNALS] == before


def test_cleaning_up_is_not_disturbed():
    cleaned = False
    with pytest.raises(Ended), ended_by_signals() as ending:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number in SIGNALS:
                if number != signal.SIGINT:
                    signal.raise_signal(number)
            # A second Ctrl-C is for a program that hangs
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
            cleaned = True
    assert cleaned and ending.name == "SIGTERM"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_signals_that_are_ignored_or_handled_stay_so(handler):
    signal.signal(signal.SIGHUP, handler)  # as by nohup
    with ended_by_signals() as ending:
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is handler
    assert ending.code is None and ending.name == ""


def test_other_threads_get_no_signals():
    done = []

    def work():
        with ended_by_signals() as ending:
            done.append(ending.code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [None]


def test_a_forked_process_ends_as_ever():
    with ended_by_signals() as ending:
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM and ending.number is None


@pytest.mark.parametrize(
    ("name", "reason"), [("SIGINT", "interrupted"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP")]
)
def test_the_exit_code_of_a_program(capsys, name, reason):
    def program():
        signal.raise_signal(getattr(signal, name))
        return 0

    assert exit_code(program) == 128 + getattr(signal, name)
    assert capsys.readouterr().err == f"error: ended early ({reason})\n"
    assert exit_code(lambda: 3) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells a child elsewhere")
def test_a_child_ends_with_a_parent_that_is_killed():
    parent = textwrap.dedent("""
        import subprocess, sys
        from icd_engine.endings import ending_with_parent
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(command, preexec_fn=ending_with_parent())
        print(child.pid, flush=True)
        child.wait()
    """)
    # The pipe closes when the last of the two has ended
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    os.kill(child, 0)
    process.kill()
    process.wait()
    assert process.communicate(timeout=30)[0] == ""
