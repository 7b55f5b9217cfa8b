"""One quick question to the network, asked before anything that would retry for minutes."""

from __future__ import annotations

import socket
import threading
import urllib.request
from urllib.parse import urlsplit


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether the host of `url`, or the proxy that leads to it, answers within `seconds`.

    The knock is a thread of its own, since no timeout bounds the look-up of a name.

    >>> reachable("http://name.invalid")
    False
    """
    door = urlsplit(url)
    proxy = urllib.request.getproxies().get(door.scheme)
    if proxy and not urllib.request.proxy_bypass(door.hostname or ""):
        door = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (door.hostname or "", door.port or (443 if door.scheme == "https" else 80))
    answers: list[bool] = []

    def knock() -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
            answers.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
