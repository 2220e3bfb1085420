"""What boto3 raises, in our kinds and in words that name the remedy. Makes no request."""

from __future__ import annotations

from typing import Final

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from backend.answers import error_of_status
from vpool.errors import Conflict, Corrupt, Denied, Internal, Invalid, NotFound, Unavailable, VPoolError

_DENIED: Final = {
    "InvalidAccessKeyId": "the access key is unknown to the store; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the signature does not match; check both keys in the environment and the endpoint's host name",
    "AccessDenied": "the key is known, but lacks a permission or its secret is wrong; check the policies of its user",
    "AllAccessDisabled": "the account is disabled; ask the provider",
    "AccountProblem": "the account has a problem; ask the provider",
    "RequestTimeTooSkewed": "the clocks of this host and of the store differ too much; check NTP here",
    "RequestExpired": "the clocks of this host and of the store differ too much; check NTP here",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
}
_WRONG_REGION: Final = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
}
_WRONG_REGION_STATUS: Final = {301, 307}
_CORRUPT: Final = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}
_FULL: Final = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}
_AGAIN: Final = {"RequestTimeout", "IncompleteBody", "InternalError", "OperationAborted", "ServiceUnavailable"}


def translate(error: Exception, region: str) -> VPoolError:
    """Turn an exception of boto3 into ours; total.

    Args:
        error: what was raised.
        region: the one in the address, for the message.
    """
    if isinstance(error, boto.ClientError):
        return _of_answer(error, region)
    if isinstance(error, boto.SSLError):
        return Unavailable(
            "TLS with the store fails; check its certificate and the protocol in its address", reason=_short(error)
        )
    if isinstance(error, boto.ConnectTimeoutError):
        return Unavailable("the store does not take the connection in time; check host, port and firewall", reason=_short(error))
    if isinstance(error, boto.EndpointConnectionError | boto.ProxyConnectionError):
        return Unavailable("the store cannot be reached; check host, port, DNS and proxy", reason=_short(error))
    if isinstance(error, boto.IncompleteReadError | boto.ResponseStreamingError):
        return Unavailable("the store's answer is shorter than announced", reason=_short(error))
    if isinstance(error, urllib3.exceptions.ProtocolError) and "IncompleteRead" in str(
        error
    ):  # some pass through boto3 as they are
        return Unavailable("the store's answer is shorter than announced", reason=_short(error))
    if isinstance(error, boto.HTTPClientError | boto.ReadTimeoutError | urllib3.exceptions.HTTPError):
        return Unavailable("the connection to the store broke", reason=_short(error))
    if isinstance(error, ResponseParserError):
        return Unavailable("the answer is none of S3; check that host and port are those of an S3 endpoint", reason=_short(error))
    if isinstance(error, boto.CredentialRetrievalError | boto.MetadataRetrievalError):
        return Unavailable("the source of the credentials does not answer", reason=_short(error))
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return Denied("the credentials are gone or incomplete; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, boto.ParamValidationError | boto.InvalidRegionError):
        return Invalid("boto3 refuses the request", reason=_short(error))
    if isinstance(error, OSError):
        return Unavailable("the connection to the store broke", reason=_short(error))
    return Internal("unexpected error of boto3", error=repr(error)[:300])


def _of_answer(error: boto.ClientError, region: str) -> VPoolError:
    """The meaning of an answer of the store."""
    meta = error.response.get("ResponseMetadata", {})
    told = error.response.get("Error", {})
    status, code = int(meta.get("HTTPStatusCode", 0)), str(told.get("Code", ""))
    headers = {str(name).lower(): str(value) for name, value in meta.get("HTTPHeaders", {}).items()}
    details: dict[str, object] = {"operation": error.operation_name, "code": code}
    if request := meta.get("RequestId"):
        details["request"] = request
    if code in _WRONG_REGION or (status in _WRONG_REGION_STATUS and not code.startswith("NoSuch")):
        expected = told.get("Region") or headers.get("x-amz-bucket-region") or "unknown"
        return Denied("wrong region in the address of the store; set region=...", given=region, expected=expected, **details)
    if code in _DENIED:
        return Denied(_DENIED[code], **details)
    if code in ("NoSuchBucket", "NoSuchKey"):
        return NotFound("no such bucket" if code == "NoSuchBucket" else "no such object", **details)
    if code == "BucketNotEmpty":
        return Conflict("the bucket is not empty", **details)
    if code in _CORRUPT:
        return Corrupt("the store received other bytes than were sent", **details)
    if code in _FULL:
        return Unavailable("a quota or the store itself is full; raise the quota or make room", **details)
    if code in _AGAIN:
        return Unavailable("the store fails", status=status, **details)
    if code == "TooManyBuckets":
        return Denied("the account may have no more buckets; raise its limit or use the option bucket=NAME", **details)
    return error_of_status(status, headers, **details)


def _short(error: Exception) -> str:
    return str(error)[:200]
