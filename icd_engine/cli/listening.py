"""What commands that listen share: which addresses others can reach, and a clean end."""

from __future__ import annotations

import ipaddress
import signal
import threading


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone; of names, only localhost is known to
    be."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def stop_signal() -> threading.Event:
    """Set by SIGTERM and Ctrl-C; a second one ends the program at once."""
    stopped = threading.Event()

    def stop_soon(number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    return stopped
