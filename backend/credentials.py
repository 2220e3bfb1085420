"""Credentials, from the environment that is handed in. Never shown: they are left out of every representation and message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.url import SwiftUrl
from vpool.errors import Invalid


@dataclass(frozen=True, slots=True)
class SwiftCredentials:
    """What the auth server is asked with. The project and the domains are None for v1."""

    user: str = field(repr=False)
    key: str = field(repr=False)
    project_name: str | None = None
    user_domain_name: str | None = None
    project_domain_name: str | None = None
    region: str | None = None


def swift_credentials(url: SwiftUrl, environ: Mapping[str, str]) -> SwiftCredentials:
    """Read what ``url`` needs.

    Raises:
        Invalid: a variable is missing; says which.
    """
    if url.auth_version == "v1":
        _require(environ, ("ST_USER", "ST_KEY"), "v1 (tempauth)")
        return SwiftCredentials(environ["ST_USER"], environ["ST_KEY"], region=url.region)
    _require(environ, ("OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"), "v3 (Keystone)")
    return SwiftCredentials(
        user=environ["OS_USERNAME"],
        key=environ["OS_PASSWORD"],
        project_name=environ["OS_PROJECT_NAME"],
        user_domain_name=environ.get("OS_USER_DOMAIN_NAME") or "Default",
        project_domain_name=environ.get("OS_PROJECT_DOMAIN_NAME") or "Default",
        region=url.region or environ.get("OS_REGION_NAME") or None,
    )


def check_s3_pair(environ: Mapping[str, str]) -> None:
    """Refuse half a pair of keys: boto3 would go on to the next source and use other credentials than were meant.

    Raises:
        Invalid: says which variable is missing.
    """
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if any(environ.get(name) for name in names):
        _require(environ, names, "S3")


def _require(environ: Mapping[str, str], names: tuple[str, ...], purpose: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise Invalid(f"credentials for {purpose} are incomplete: set {' and '.join(missing)} in the environment of the daemon")
