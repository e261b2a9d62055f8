"""Whether a name resolves, within a bound. `getaddrinfo` has none: with a dead name server it takes half a minute.

One thread asks for each name. If it hangs it is left behind, and who asks meanwhile waits for the same answer.
"""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address


class Names:
    def __init__(self) -> None:
        self._asked: dict[str, _Question] = {}

    def trouble(self, name: str, within: float) -> str:
        """Empty: it resolves. Blocking."""
        try:
            ip_address(name)
        except ValueError:
            pass
        else:
            return ""
        question = self._asked.get(name)
        if question is None or question.answered.is_set():
            question = self._asked[name] = _Question(name)
        if not question.answered.wait(within):
            return f"no name server answered within {within:g} s"
        return question.trouble


class _Question:
    def __init__(self, name: str) -> None:
        self.answered = threading.Event()
        self.trouble = ""
        threading.Thread(target=self._ask, args=(name,), name="names", daemon=True).start()

    def _ask(self, name: str) -> None:
        try:
            socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            self.trouble = error.strerror or str(error)
        except UnicodeError:
            self.trouble = "it is not a host name"
        self.answered.set()
