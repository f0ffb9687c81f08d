"""What commands that listen share: which addresses others can reach, and a clean end."""

from __future__ import annotations

import ipaddress
import os
import signal
import threading

LOCAL = ("localhost", "127.0.0.1", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY")  # programs read either


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone; of names, only localhost is known to
    be."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def spare_local(host: str) -> None:
    """From now on nothing of this process, or of those it starts, asks a proxy of the environment for
    this machine: it would not know it."""
    given = next((value for name in NO_PROXY if (value := os.environ.get(name))), "")
    known = [name.strip() for name in given.split(",") if name.strip()]
    own = [name for name in (*LOCAL, host) if name not in known]
    os.environ.update(dict.fromkeys(NO_PROXY, ",".join([*known, *own])))


def stop_signal() -> threading.Event:
    """Set by SIGTERM and Ctrl-C; a second one ends the program at once."""
    stopped = threading.Event()

    def stop_soon(number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    return stopped
