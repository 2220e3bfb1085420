"""The fault proxy does to a store what it says, and sees what it should."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.fault_plan import Faults, object_name
from tests.fault_proxy import FaultProxy, Outage


class Store(http.server.BaseHTTPRequestHandler):
    """A store as small as can be: any path is an object, those that end in '/' are listings."""

    server: http.server.HTTPServer
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}  # noqa: RUF012

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(201, b"")

    def do_GET(self) -> None:
        if self.path.startswith("/auth"):
            self._reply(200, b"", {"X-Storage-Url": f"http://127.0.0.1:{self.server.server_port}/v1/AUTH_a"})
        elif self.path.endswith("/"):
            self._reply(200, " ".join(sorted(self.objects)).encode())
        else:
            self._reply(200 if self.path in self.objects else 404, self.objects.get(self.path, b""))

    def do_HEAD(self) -> None:
        self._reply(200, b"12345")

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    Store.objects = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(proxy: FaultProxy, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


NAME = "/v1/AUTH_a/bucket/sco/1/2"


def test_it_is_transparent_without_faults(upstream: str) -> None:
    with FaultProxy.running(upstream) as proxy:
        assert ask(proxy, "PUT", NAME, b"x" * 100_000)[0] == 201
        assert ask(proxy, "GET", NAME) == (200, b"x" * 100_000)
        assert ask(proxy, "HEAD", NAME) == (200, b"")
        assert ask(proxy, "GET", NAME + "no")[0] == 404
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)
        for _ in range(3):  # kept alive
            connection.request("GET", NAME)
            assert len(connection.getresponse().read()) == 100_000
        connection.close()


def test_the_account_lies_behind_the_proxy(upstream: str) -> None:
    with FaultProxy.running(upstream) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)
        connection.request("GET", "/auth/v1.0")
        assert connection.getresponse().getheader("X-Storage-Url") == f"{proxy.url}/v1/AUTH_a"
        connection.close()


def test_a_name_with_other_content_is_a_violation(upstream: str) -> None:
    with FaultProxy.running(upstream) as proxy:
        ask(proxy, "PUT", NAME, b"one")
        ask(proxy, "PUT", NAME, b"one")
        assert (proxy.ledger.violations, proxy.ledger.repeats) == ([], 1)
        ask(proxy, "PUT", NAME, b"two")
        assert len(proxy.ledger.violations) == 1
        assert proxy.ledger.violations[0].startswith("bucket/sco/1/2 was put with 3 bytes")


def test_a_name_counts_as_used_even_if_the_reply_was_lost(upstream: str) -> None:
    with FaultProxy.running(upstream, faults=Faults(reset_after=1)) as proxy:
        with pytest.raises(ConnectionError):
            ask(proxy, "PUT", NAME, b"one")
        assert Store.objects == {NAME: b"one"}
        proxy.faults = Faults()
        ask(proxy, "PUT", NAME, b"two")
        assert proxy.ledger.violations


def test_what_was_not_forwarded_does_not_count(upstream: str) -> None:
    with FaultProxy.running(upstream, faults=Faults(reset_before=1)) as proxy:
        with pytest.raises(ConnectionError):
            ask(proxy, "PUT", NAME, b"one")
        proxy.faults = Faults(unavailable=1)
        assert ask(proxy, "PUT", NAME, b"one")[0] == 503
        assert Store.objects == {}
        proxy.faults = Faults()
        ask(proxy, "PUT", NAME, b"two")
        assert not proxy.ledger.violations


def test_a_failed_put_may_have_been_done(upstream: str) -> None:
    with FaultProxy.running(upstream, faults=Faults(unavailable_but_done=1)) as proxy:
        assert ask(proxy, "PUT", NAME, b"one")[0] == 503
    assert Store.objects == {NAME: b"one"}


def test_a_body_comes_short(upstream: str) -> None:
    with FaultProxy.running(upstream) as proxy:
        ask(proxy, "PUT", NAME, b"x" * 1000)
        proxy.faults = Faults(short_body=1)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            ask(proxy, "GET", NAME)


def test_an_object_is_not_seen_at_once_and_then_for_good(upstream: str) -> None:
    with FaultProxy.running(upstream, faults=Faults(invisible=1, invisible_s=0.3), seed=3) as proxy:
        ask(proxy, "PUT", NAME, b"one")
        assert ask(proxy, "GET", NAME)[0] == 404
        while ask(proxy, "GET", NAME)[0] == 404:
            pass
        ask(proxy, "PUT", NAME, b"one")
        assert ask(proxy, "GET", NAME) == (200, b"one")


def test_a_listing_is_stale(upstream: str) -> None:
    with FaultProxy.running(upstream) as proxy:
        ask(proxy, "PUT", "/bucket/a", b"1")
        fresh = ask(proxy, "GET", "/bucket/")
        ask(proxy, "PUT", "/bucket/b", b"1")
        proxy.faults = Faults(stale_listing=1)
        assert ask(proxy, "GET", "/bucket/") == fresh
        proxy.faults = Faults()
        assert ask(proxy, "GET", "/bucket/") == (200, b"/bucket/a /bucket/b")


def test_an_outage_breaks_or_holds_everything(upstream: str) -> None:
    with FaultProxy.running(upstream) as proxy:
        proxy.outage = Outage.RESET
        with pytest.raises(ConnectionError):
            ask(proxy, "GET", NAME)
        proxy.outage = Outage.SILENT
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=0.2)
        connection.request("GET", NAME)
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        proxy.outage = Outage.NONE
        assert ask(proxy, "GET", NAME)[0] == 404


def test_a_store_that_is_down_is_a_503() -> None:
    with FaultProxy.running("http://127.0.0.1:9") as proxy:
        assert ask(proxy, "GET", NAME)[0] == 503


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/v1/AUTH_a/bucket/sco/1/2", "bucket/sco/1/2"),
        ("/v1/AUTH_a/bucket/a%20b?x=1", "bucket/a b"),
        ("/v1/AUTH_a/bucket?prefix=x", None),
        ("/v1/AUTH_a", None),
        ("/auth/v1.0", None),
        ("/bucket/key/1", "bucket/key/1"),
        ("/bucket/key?partNumber=2&uploadId=x", "bucket/key?partNumber=2&uploadId=x"),
        ("/bucket?list-type=2", None),
        ("/bucket/", None),
        ("/", None),
    ],
)
def test_names_of_both_protocols(target: str, name: str | None) -> None:
    assert object_name(target) == name
