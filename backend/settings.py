"""Settings of the room: each with its unit, its default and what follows from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BackendSettings(BaseModel):
    """How hard, how long and how wide the object store is used. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uploads_in_flight_max: int = Field(
        default=16,
        ge=1,
        le=256,
        description="puts under way at once; more fills a fat line, costs 4 MiB of memory and a thread each",
    )
    reads_in_flight_max: int = Field(
        default=16,
        ge=1,
        le=256,
        description="gets and sizes under way at once; apart from uploads, so that reads never queue behind them",
    )
    others_in_flight_max: int = Field(
        default=8,
        ge=1,
        le=64,
        description="listings, deletions and bucket requests under way at once; too many starve the store's listings",
    )
    try_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="one try; below the time a 4 MiB object takes on the line, nothing ever gets through",
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="one connection; a silent host costs this much of each try"
    )
    deadline_s: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="all tries of one request, from its first; after it the caller gets Unavailable and decides",
    )
    check_deadline_s: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="all tries of a check; an operator waits this long to hear that an endpoint is wrong",
    )
    close_timeout_s: float = Field(
        default=35.0,
        gt=0,
        le=700,
        description="how long closing waits for abandoned tries; below try_timeout_s a try may outlive the store",
    )
    backoff_first_s: float = Field(
        default=0.1,
        gt=0,
        le=60,
        description="upper end of the first random pause; larger is kinder to the store, slower after a hiccup",
    )
    backoff_max_s: float = Field(
        default=10.0, gt=0, le=300, description="upper end of any random pause; bounds how late a recovery is seen"
    )
    retry_budget: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="retries that may come in one burst, over all requests; more hits a store that is coming back",
    )
    retry_budget_per_s: float = Field(
        default=4.0,
        gt=0,
        le=1000,
        description="retries per second once the burst is used up, besides one for every two successes; the load of a dead store",
    )
    corrupt_tries_max: int = Field(
        default=3,
        ge=1,
        le=10,
        description="tries of a request whose checksum is wrong on arrival; then Corrupt: the data, not the line",
    )
    list_page_objects: int = Field(
        default=1000,
        ge=1,
        le=1000,
        description="objects per page of a listing; fewer means more requests, more means more memory",
    )

    @model_validator(mode="after")
    def _consistent(self) -> BackendSettings:
        if self.connect_timeout_s > self.try_timeout_s:
            raise ValueError("connect_timeout_s must not exceed try_timeout_s: a try would end before its connection may")
        if self.try_timeout_s > self.deadline_s:
            raise ValueError("try_timeout_s must not exceed deadline_s: no request would ever be tried twice")
        if self.backoff_first_s > self.backoff_max_s:
            raise ValueError("backoff_first_s must not exceed backoff_max_s")
        return self
