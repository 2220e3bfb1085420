"""OpenStack Swift by python-swiftclient: one token for all, a pool of connections, the library's own retries off."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session
from swiftclient.client import Connection, get_auth
from swiftclient.exceptions import ClientException

from backend.credentials import SwiftCredentials, swift_credentials
from backend.ranges import cut_to_range, range_header
from backend.settings import BackendSettings
from backend.store import ObjectInfo
from backend.swift_errors import translate
from backend.threaded import ThreadedStore
from backend.url import SwiftUrl
from vpool.errors import Conflict, Corrupt, Denied, VPoolError

T = TypeVar("T")
_PAGE_BUCKETS = 10_000  # Swift's own limit


class SwiftToken:
    """The token and the address of the account, shared by all connections; asked for once however many find it expired."""

    def __init__(self, url: SwiftUrl, credentials: SwiftCredentials, timeout_s: tuple[float, float]) -> None:
        """Nothing is asked before the first request needs it."""
        self._url, self._credentials, self._timeout_s = url, credentials, timeout_s
        self._lock = threading.Lock()
        self._current: tuple[str, str] | None = None

    def get(self, *, instead_of: str | None = None) -> tuple[str, str]:
        """Address of the account and token; a new token where the current one is the one that was refused."""
        with self._lock:
            if self._current is None or self._current[1] == instead_of:
                self._current = None
                self._current = self._ask()
            return self._current

    def _ask(self) -> tuple[str, str]:
        own = self._credentials
        if self._url.auth_version == "v1":
            account, token = get_auth(self._url.auth_url, own.user, own.key, auth_version="1", timeout=self._timeout_s)
        else:
            account, token = get_auth(None, None, None, session=self._keystone(), os_options={"region_name": own.region})
        if not account or not token:
            raise Denied(
                "the auth server names no object store for this user; check the address, and region= or OS_REGION_NAME",
                url=self._url.auth_url,
                region=own.region,
            )
        return account, token

    def _keystone(self) -> Session:
        """A session that will ask for a new token; its own retries are off by default."""
        own = self._credentials
        password = Password(
            auth_url=self._url.auth_url,
            username=own.user,
            password=own.key,
            project_name=own.project_name,
            user_domain_name=own.user_domain_name,
            project_domain_name=own.project_domain_name,
        )
        return Session(auth=password, timeout=self._timeout_s[1])


class SwiftRequests:
    """One try of each request, each with a connection of its own from the pool."""

    def __init__(self, token: SwiftToken, timeout_s: tuple[float, float], page_objects: int) -> None:
        """Make no connection yet; the pool grows to as many as there are requests at once."""
        self._token = token
        self._timeout_s = timeout_s
        self._page_objects = page_objects
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()

    def check(self) -> None:
        """List buckets, and with a token that the auth server has just given."""
        self._with(lambda connection: connection.get_account(limit=1))

    def create_bucket(self, bucket: str) -> None:
        """Make a container."""
        self._with(lambda connection: connection.put_container(bucket))

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty container."""
        with _absent_is_fine():
            try:
                self._with(lambda connection: connection.delete_container(bucket))
            except ClientException as error:
                if error.http_status == 409:
                    raise Conflict("the bucket is not empty", bucket=bucket) from error
                raise

    def buckets(self, prefix: str) -> list[str]:
        """All containers with the prefix."""
        names: list[str] = []
        while True:
            page = self._buckets_after(prefix, names[-1] if names else None)
            if not page:
                return names
            names += [entry["name"] for entry in page]

    def _buckets_after(self, prefix: str, marker: str | None) -> list[dict[str, Any]]:
        answer = self._with(lambda connection: connection.get_account(prefix=prefix or None, marker=marker, limit=_PAGE_BUCKETS))
        entries: list[dict[str, Any]] = answer[1]
        return entries

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store an object; the store compares its MD5 with ours, and we its ETag."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        etag = self._with(lambda connection: connection.put_object(bucket, name, data, content_length=len(data), etag=digest))
        _compare("put", etag, digest, bucket, name)

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Store an object on the condition that there is none."""
        headers = {"If-None-Match": "*"}
        try:
            self._with(lambda connection: connection.put_object(bucket, name, data, content_length=len(data), headers=headers))
        except ClientException as error:
            if error.http_status != 412:
                raise
            return False
        return True

    def get(self, bucket: str, name: str, start: int, length: int | None) -> bytes:
        """A part of an object; the MD5 of a whole one is compared with its ETag."""
        whole = start == 0 and length is None
        wanted = {} if whole else {"Range": range_header(start, length)}
        try:
            headers, data = self._with(lambda connection: connection.get_object(bucket, name, headers=wanted))
        except ClientException as error:
            if error.http_status == 416:
                return b""  # begins where the object has ended
            raise
        if not whole:
            return cut_to_range(data, headers.get("content-range"), start, length, bucket=bucket, name=name)
        if "x-static-large-object" not in headers and "x-object-manifest" not in headers:
            _compare("get", headers.get("etag", ""), hashlib.md5(data, usedforsecurity=False).hexdigest(), bucket, name)
        return bytes(data)

    def size(self, bucket: str, name: str) -> int:
        """Bytes of an object."""
        return int(self._with(lambda connection: connection.head_object(bucket, name))["content-length"])

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""
        with _absent_is_fine():
            self._with(lambda connection: connection.delete_object(bucket, name))

    def page(self, bucket: str, prefix: str, cursor: str | None) -> tuple[list[ObjectInfo], str | None]:
        """One page of a listing; Swift has no end mark but an empty page."""
        _, entries = self._with(
            lambda connection: connection.get_container(bucket, prefix=prefix or None, marker=cursor, limit=self._page_objects)
        )
        page = [ObjectInfo(entry["name"], int(entry["bytes"])) for entry in entries]
        return page, page[-1].name if page else None

    def translate(self, error: Exception) -> VPoolError:
        """Words and kinds for what the library raises."""
        return translate(error)

    def close(self) -> None:
        """Let go of the connections that are idle; those in use are closed by whoever uses them."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _with(self, request: Callable[[Connection], T]) -> T:
        """Run a request with a connection and the current token, once more with a new token where it was refused."""
        account, token = self._token.get()
        try:
            return self._once(request, account, token)
        except ClientException as error:
            if error.http_status != 401:
                raise
        account, token = self._token.get(instead_of=token)
        return self._once(request, account, token)

    def _once(self, request: Callable[[Connection], T], account: str, token: str) -> T:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = Connection(preauthurl=account, preauthtoken=token, retries=0, timeout=self._timeout_s, auth_version="1")
        if connection.url != account:
            connection.close()  # the account has moved, the connection leads to its old place
        connection.url, connection.token = account, token
        try:
            result = request(connection)
        except BaseException as error:
            if isinstance(error, ClientException) and error.http_status and error.http_status < 500 and error.http_status != 408:
                self._idle.put(connection)  # a whole answer was read
            else:
                connection.close()
            raise
        self._idle.put(connection)
        return result


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except ClientException as error:
        if error.http_status != 404:
            raise


def _compare(what: str, etag: Any, digest: str, bucket: str, name: str) -> None:
    store = str(etag).strip('"').lower()
    if store != digest:
        raise Corrupt(f"checksum of the {what} differs from the store's", bucket=bucket, name=name, store=store, ours=digest)


def open_swift(url: SwiftUrl, settings: BackendSettings, environ: Mapping[str, str]) -> ThreadedStore:
    """Prepare; no I/O.

    Raises:
        Invalid: credentials are missing.
    """
    logging.getLogger("swiftclient").setLevel(logging.CRITICAL)  # at INFO it logs requests with their tokens
    timeout_s = (settings.connect_timeout_s, settings.try_timeout_s)
    token = SwiftToken(url, swift_credentials(url, environ), timeout_s)
    requests = SwiftRequests(token, timeout_s, settings.list_page_objects)
    options = "&".join(f"{key}={value}" for key, value in (("prefix", url.prefix), ("region", url.region)) if value)
    shown = f"swift:{url.auth_url}" + (f"?{options}" if options else "")
    return ThreadedStore(shown, requests, settings, prefix=url.prefix)
