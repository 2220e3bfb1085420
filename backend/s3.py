"""S3 and what speaks its protocol, by boto3: one client, path style, its own retries and checksums off."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from backend.credentials import check_s3_pair
from backend.ranges import cut_to_range, range_header
from backend.s3_errors import translate
from backend.settings import BackendSettings
from backend.store import ObjectInfo
from backend.threaded import ThreadedStore
from backend.url import S3Url
from vpool.errors import Corrupt, Denied, Invalid, NotFound, Unavailable, VPoolError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_MD5 = re.compile(r"[0-9a-f]{32}")


class S3Requests:
    """One try of each request. The client is thread-safe and keeps its connections."""

    def __init__(self, client: S3Client, region: str, page_objects: int) -> None:
        """Use ``client``, which this object closes."""
        self._client = client
        self._region = region
        self._page_objects = page_objects

    def check(self) -> None:
        """List buckets."""
        self._client.list_buckets()

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket; one that answers to our credentials is ours."""
        place: Any = {} if self._region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            self._client.create_bucket(Bucket=bucket, **place)
        except self._client.exceptions.BucketAlreadyOwnedByYou:
            return
        except self._client.exceptions.BucketAlreadyExists:
            try:
                self._client.head_bucket(Bucket=bucket)
            except Exception as error:
                if isinstance(self.translate(error), Denied):
                    raise Denied("the bucket's name belongs to another account; choose another prefix", bucket=bucket) from error
                raise

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        self._unless_absent(lambda: self._client.delete_bucket(Bucket=bucket))

    def buckets(self, prefix: str) -> list[str]:
        """All buckets with the prefix."""
        names: list[str] = []
        token: Any = {}
        while True:
            answer = self._client.list_buckets(**token)
            names += [entry["Name"] for entry in answer.get("Buckets", []) if entry["Name"].startswith(prefix)]
            if not answer.get("ContinuationToken"):
                return sorted(names)
            token = {"ContinuationToken": answer["ContinuationToken"]}

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Store an object; the store checks its MD5, and its ETag is compared where that is an MD5."""
        digest = hashlib.md5(data, usedforsecurity=False)
        answer = self._client.put_object(
            Bucket=bucket, Key=name, Body=data, ContentMD5=base64.b64encode(digest.digest()).decode("ascii")
        )
        _compare("put", answer, digest.hexdigest(), bucket, name)

    def put_if_absent(self, bucket: str, name: str, data: bytes) -> bool:
        """Store an object on the condition that there is none."""
        try:
            self._client.put_object(Bucket=bucket, Key=name, Body=data, IfNoneMatch="*")
        except self._client.exceptions.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (409, 412):
                return False
            if status in (400, 501):
                raise Invalid("the store knows no conditional put", status=status) from error
            raise
        return True

    def get(self, bucket: str, name: str, start: int, length: int | None) -> bytes:
        """A part of an object; the MD5 of a whole one is compared with its ETag."""
        whole = start == 0 and length is None
        wanted: Any = {} if whole else {"Range": range_header(start, length)}
        try:
            answer = self._client.get_object(Bucket=bucket, Key=name, **wanted)
        except self._client.exceptions.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 416:
                return b""  # begins where the object has ended
            raise
        with answer["Body"] as body:
            data = body.read()
        if whole:
            _compare("get", answer, hashlib.md5(data, usedforsecurity=False).hexdigest(), bucket, name)
            return data
        return cut_to_range(data, answer.get("ContentRange"), start, length, bucket=bucket, name=name)

    def size(self, bucket: str, name: str) -> int:
        """Bytes of an object."""
        return self._client.head_object(Bucket=bucket, Key=name)["ContentLength"]

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""
        self._unless_absent(lambda: self._client.delete_object(Bucket=bucket, Key=name))

    def page(self, bucket: str, prefix: str, cursor: str | None) -> tuple[list[ObjectInfo], str | None]:
        """One page of a listing."""
        token: Any = {} if cursor is None else {"ContinuationToken": cursor}
        answer = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=self._page_objects, **token)
        page = [ObjectInfo(entry["Key"], entry["Size"]) for entry in answer.get("Contents", [])]
        following = answer.get("NextContinuationToken")
        if answer.get("IsTruncated") and not following:
            raise Unavailable("the store cut a listing short without saying where to go on", bucket=bucket)
        return page, following if answer.get("IsTruncated") else None

    def translate(self, error: Exception) -> VPoolError:
        """Words and kinds for what boto3 raises."""
        return translate(error, self._region)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _unless_absent(self, request: Callable[[], object]) -> None:
        try:
            request()
        except self._client.exceptions.ClientError as error:
            if isinstance(self.translate(error), NotFound):
                return
            raise


def _compare(what: str, answer: Mapping[str, Any], digest: str, bucket: str, name: str) -> None:
    """Compare an ETag with the MD5 of the data, unless the ETag is none: multi-part objects, keys of KMS or of the customer."""
    etag = str(answer.get("ETag", "")).strip('"').lower()
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:") or "SSECustomerAlgorithm" in answer
    if _MD5.fullmatch(etag) and not encrypted and etag != digest:
        raise Corrupt(f"checksum of the {what} differs from the store's", bucket=bucket, name=name, store=etag, ours=digest)


def open_s3(url: S3Url, settings: BackendSettings, environ: Mapping[str, str]) -> ThreadedStore:
    """Make a client; blocks while boto3 looks for credentials, makes no request to the store.

    Raises:
        Invalid: no credentials, or half of them.
    """
    check_s3_pair(environ)
    session = boto3.Session(
        aws_access_key_id=environ.get("AWS_ACCESS_KEY_ID") or None,
        aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY") or None,
        aws_session_token=environ.get("AWS_SESSION_TOKEN") or None if environ.get("AWS_ACCESS_KEY_ID") else None,
    )
    if session.get_credentials() is None:
        raise Invalid(
            "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the daemon, or use "
            "another source that boto3 knows"
        )
    connections = settings.uploads_in_flight_max + settings.reads_in_flight_max + settings.others_in_flight_max
    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.try_timeout_s,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": "path"},
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # the stub does not know it yet
    )
    client = session.client("s3", region_name=url.region, endpoint_url=url.endpoint, config=config)
    shown = f"s3:{url.endpoint or '//'}/{url.prefix}?region={url.region}"
    return ThreadedStore(shown, S3Requests(client, url.region, settings.list_page_objects), settings, prefix=url.prefix)
