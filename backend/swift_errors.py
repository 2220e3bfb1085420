"""What python-swiftclient and Keystone's libraries raise, in our kinds and in words that name the remedy. Makes no request."""

from __future__ import annotations

import requests.exceptions
import urllib3.exceptions
from keystoneauth1 import exceptions as keystone
from swiftclient.exceptions import ClientException

from backend.answers import error_of_status
from vpool.errors import Denied, Internal, Unavailable, VPoolError


def translate(error: Exception) -> VPoolError:
    """Turn an exception of the libraries into ours; total."""
    if isinstance(error, ClientException):
        return _of_answer(error)
    if isinstance(error, keystone.ClientException):
        return _of_keystone(error)
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return Unavailable(
            "TLS with the store fails; check its certificate and the protocol in its address", reason=_short(error)
        )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unavailable("the store does not take the connection in time; check host, port and firewall", reason=_short(error))
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
        return Unavailable("the store did not answer in time", reason=_short(error))
    if isinstance(error, urllib3.exceptions.IncompleteRead) or "IncompleteRead" in str(error):
        return Unavailable("the store's answer is shorter than announced", reason=_short(error))
    if isinstance(error, requests.exceptions.ConnectionError):
        return Unavailable(
            "the store cannot be reached or broke the connection; check host, port, DNS and proxy", reason=_short(error)
        )
    if isinstance(error, requests.exceptions.RequestException | urllib3.exceptions.HTTPError | OSError):
        return Unavailable("the connection to the store broke", reason=_short(error))
    if isinstance(error, ValueError):  # no JSON where a listing should be
        return Unavailable("the answer is none of Swift; check that host and port are those of a Swift", reason=_short(error))
    return Internal("unexpected error of python-swiftclient", error=repr(error)[:300])


def _of_answer(error: ClientException) -> VPoolError:
    """The meaning of an answer of Swift or of its auth server. The exception's own text is not shown: it quotes the answer."""
    status = error.http_status
    details: dict[str, object] = {"reason": error.http_reason} if error.http_reason else {}
    if error.transaction_id:
        details["request"] = error.transaction_id
    if not status:
        return Internal("unexpected error of python-swiftclient", error=error.msg[:200])
    if error.msg.startswith("Auth GET") and status in (401, 403):
        return Denied("the auth server does not accept the credentials; check ST_USER and ST_KEY", status=status, **details)
    if error.msg.startswith("Auth GET") and status < 500:
        return Denied(
            "no auth server at this address; it ends in /auth/v1.0 for tempauth, /v3 for Keystone", status=status, **details
        )
    if status == 409:
        return Unavailable("the store has a newer version of this or is busy with it", status=status, **details)
    headers = {str(name).lower(): str(value) for name, value in (error.http_response_headers or {}).items()}
    return error_of_status(status, headers, **details)


def _of_keystone(error: keystone.ClientException) -> VPoolError:
    status = getattr(error, "http_status", 0)
    if isinstance(error, keystone.SSLError):
        return Unavailable("TLS with Keystone fails; check its certificate and the protocol in its address", reason=_short(error))
    if isinstance(error, keystone.ConnectionError):
        return Unavailable("Keystone cannot be reached; check host, port and DNS", reason=_short(error))
    if isinstance(error, keystone.EndpointNotFound):
        return Denied("Keystone knows no object store for this user in this region; check region= or OS_REGION_NAME")
    if status == 404 or isinstance(error, keystone.DiscoveryFailure):
        return Denied("no Keystone at this address; it ends in /v3", reason=_short(error))
    if 400 <= status < 500 and status != 429:
        return Denied(
            "Keystone does not accept the credentials; check OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME and the domains",
            status=status,
        )
    return Unavailable("Keystone fails", status=status, reason=_short(error))


def _short(error: Exception) -> str:
    return str(error)[:200]
