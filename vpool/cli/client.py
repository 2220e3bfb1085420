"""Requests to the management API of a daemon on this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from vpool import errors
from vpool.errors import Internal, Unavailable, VPoolError
from vpool.runtime import connect, find_directory

TIMEOUT_S = 60.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP on the socket of the daemon of a directory; ``timeout_s`` None: waits as long as the daemon does."""

    def __init__(self, directory: Path, *, timeout_s: float | None = TIMEOUT_S) -> None:
        super().__init__("vpool")
        self._directory = directory
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = connect(self._directory)
        self.sock.settimeout(self._timeout_s)

    def cut_off(self) -> None:
        """End a request that another thread waits for."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class Client:
    """The daemon of one DIR. Answers are JSON; refusals are raised as the class of ``vpool.errors`` that the daemon names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def find(cls, directory: Path | None) -> Client:
        """The daemon of ``directory``, or the only one that runs here. NotFound, Conflict (several)."""
        return cls(directory.absolute() if directory is not None else find_directory())

    def get(self, path: str) -> Any:
        """What is at a path of the API."""
        return self._request("GET", path)

    def post(self, path: str, body: dict[str, object], *, timeout_s: float = TIMEOUT_S) -> Any:
        """Make something."""
        return self._request("POST", path, body, timeout_s)

    def delete(self, path: str, **options: str) -> None:
        """Remove something."""
        self._request("DELETE", f"{path}?{urlencode(options)}" if options else path)

    def _request(self, method: str, path: str, body: dict[str, object] | None = None, timeout_s: float = TIMEOUT_S) -> Any:
        connection = UnixConnection(self.directory, timeout_s=timeout_s)
        try:
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            response = connection.getresponse()
            text = response.read()
        except TimeoutError:
            raise Unavailable(
                f"the daemon in {self.directory} has not answered within {timeout_s:g} s; its log may say why"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the connection to the daemon in {self.directory} broke: {error}") from None
        finally:
            connection.close()
        answer = json.loads(text) if text else None
        if response.status >= 400:
            raise refusal(answer)
        return answer


def volume_path(path: str) -> str:
    """The address of a volume in the API."""
    return f"/v1/volumes/{quote(path.strip('/'), errors='surrogateescape')}"


def contents_path(path: str) -> str:
    """The address of what a volume has."""
    return f"/v1/contents/{quote(path.strip('/'), errors='surrogateescape')}"


def refusal(answer: Any) -> VPoolError:
    """The error that an answer of the daemon reports."""
    kind = getattr(errors, str(answer.get("error")), Internal) if isinstance(answer, dict) else Internal
    if not (isinstance(kind, type) and issubclass(kind, VPoolError)):
        kind = Internal
    message = str(answer.get("message", "the daemon refused")) if isinstance(answer, dict) else "the daemon's answer is not JSON"
    details = answer.get("details", {}) if isinstance(answer, dict) else {}
    return kind(message, **details)
