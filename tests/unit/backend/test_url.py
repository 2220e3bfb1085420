"""An address that is wrong in any part is refused before any I/O, with words that say what would be right."""

from __future__ import annotations

import pytest

from backend import open_store
from backend.credentials import swift_credentials
from backend.url import DirectoryUrl, S3Url, StoreUrl, SwiftUrl, parse_url
from vpool.errors import Invalid


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("dir:/srv/vpool", DirectoryUrl("/srv/vpool")),
        ("dir:/srv/vpool/", DirectoryUrl("/srv/vpool")),
        ("dir:/srv/a%20b%3Fc?bucket=one-bucket", DirectoryUrl("/srv/a b?c", "one-bucket")),
        ("s3:", S3Url(None, "us-east-1")),
        ("s3:///site1-", S3Url(None, "us-east-1", "site1-")),
        ("s3:///site1-?region=eu-west-3", S3Url(None, "eu-west-3", "site1-")),
        ("s3:?region=eu-west-3&bucket=one-bucket", S3Url(None, "eu-west-3", "", "one-bucket")),
        ("s3:https://host", S3Url("https://host", "us-east-1")),
        ("s3:http://host:9000/p?region=r", S3Url("http://host:9000", "r", "p")),
        ("s3:https://[::1]:9000", S3Url("https://[::1]:9000", "us-east-1")),
        ("swift:http://host:8080/auth/v1.0", SwiftUrl("http://host:8080/auth/v1.0", "v1")),
        ("swift:https://host/identity/v3/?region=One", SwiftUrl("https://host/identity/v3", "v3", region="One")),
        ("swift:https://host:5000/v3?prefix=p-", SwiftUrl("https://host:5000/v3", "v3", "p-")),
        ("swift:https://host/v3?bucket=one-bucket", SwiftUrl("https://host/v3", "v3", single_bucket="one-bucket")),
    ],
)
def test_a_good_address_is_read(url: str, expected: StoreUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "unknown kind"),
        ("/srv/vpool", "unknown kind"),
        ("gs://bucket", "unknown kind of store 'gs'.*dir:/path"),
        ("S3:https://host", "unknown kind"),
        ("dir:relative", "absolute path"),
        ("dir://host/path", "absolute path"),
        ("dir:/", "root directory"),
        ("dir:/a/../b", "'..'"),
        ("dir:/a%00b", "NUL"),
        ("dir:/a b", "%20"),
        ("dir:/a#b", "%23"),
        ("dir:/a?region=x", "unknown option 'region'; known are bucket"),
        ("s3:host:9000", "must begin with https://"),
        ("s3://host/prefix", "s3:https://host"),
        ("s3:ftp://host", "must begin with https://"),
        ("s3:https:///prefix", "no host"),
        ("s3:https://host:0", "port 0"),
        ("s3:https://host:99999", "cannot be read"),
        ("s3:https://host/a/b", "several parts"),
        ("s3:https://host/UPPER", "cannot begin a bucket name"),
        ("s3:https://host/-a", "cannot begin a bucket name"),
        ("s3:https://host/" + "a" * 25, "cannot begin a bucket name"),
        ("s3:https://host?prefix=a", "unknown option 'prefix'"),
        ("s3:https://host?region=", "has no value"),
        ("s3:https://host?region", "cannot be read|has no value"),
        ("s3:https://host?region=a&region=b", "given twice"),
        ("s3:https://host?region=a%2Fb", "region 'a/b' is not possible"),
        ("s3:https://host?bucket=Upper", "not possible"),
        ("s3:https://host/p?bucket=one-bucket", "exclude each other"),
        ("s3:https://host#x", "'#'"),
        ("s3:https://key:secret@host", "credentials do not belong"),
        ("swift:", "auth server"),
        ("swift:host/v3", "swift:https://"),
        ("swift:https://host/", "must end in /v3"),
        ("swift:https://host/v2.0", "must end in /v3"),
        ("swift:https://host/v3?prefix=a_b", "cannot begin a bucket name"),
        ("swift:https://host/v3?prefix=twenty-characters---", "use up to 19"),
        ("swift:https://host/v3?user=x", "unknown option 'user'"),
        ("swift:https://u:secret@host/v3", "credentials do not belong"),
    ],
)
def test_a_bad_address_is_refused_with_its_remedy(url: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "environ", "words"),
    [
        ("swift:http://host/auth/v1.0", {}, "ST_USER and ST_KEY"),
        ("swift:http://host/auth/v1.0", {"ST_USER": "u"}, "set ST_KEY"),
        ("swift:http://host/v3", {"OS_USERNAME": "u", "OS_PASSWORD": "p"}, "set OS_PROJECT_NAME"),
        ("s3:http://host", {"AWS_ACCESS_KEY_ID": "u"}, "set AWS_SECRET_ACCESS_KEY"),
        ("s3:http://host", {"AWS_SECRET_ACCESS_KEY": "u"}, "set AWS_ACCESS_KEY_ID"),
    ],
)
async def test_missing_credentials_are_named(url: str, environ: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        await open_store(url, environ=environ)


async def test_no_source_of_s3_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Invalid, match="no credentials for S3"):
        await open_store("s3:http://host", environ={})


def test_credentials_are_left_out_of_their_representation() -> None:
    environ = {"ST_USER": "somebody", "ST_KEY": "hunter2"}
    shown = repr(swift_credentials(SwiftUrl("http://host/auth/v1.0", "v1"), environ))
    assert "hunter2" not in shown
    assert "somebody" not in shown
