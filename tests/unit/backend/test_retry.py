"""The plan of retries, on a clock of its own: bounded by deadline, jitter and budget."""

from __future__ import annotations

from random import Random

import pytest
from pydantic import ValidationError

from backend.retry import RetryBudget, RetryPlan, RetryPolicy
from backend.settings import BackendSettings

POLICY = RetryPolicy(deadline_s=100.0, backoff_first_s=0.1, backoff_max_s=5.0, corrupt_tries_max=3)


def plenty() -> RetryBudget:
    return RetryBudget(1000, 1000.0)


def test_pauses_double_up_to_their_ceiling() -> None:
    plan = RetryPlan(POLICY, plenty(), lambda: 0.999999, 0.0)
    pauses = [plan.after_failure(0.0) for _ in range(9)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0], rel=1e-4)


def test_the_jitter_is_full() -> None:
    """Pauses from zero on: else the clients of a store that comes back knock in step."""
    random = Random(1)
    pauses = []
    for _ in range(2000):
        plan = RetryPlan(POLICY, plenty(), random.random, 0.0)
        plan.tries_failed = 3
        pause = plan.after_failure(0.0)
        assert pause is not None
        pauses.append(pause)
    assert min(pauses) < 0.01
    assert 0.79 < max(pauses) <= 0.8
    assert sum(pauses) / len(pauses) == pytest.approx(0.4, abs=0.03)


def test_no_pause_reaches_beyond_the_deadline() -> None:
    plan = RetryPlan(POLICY, plenty(), lambda: 0.5, 1000.0)
    assert plan.remaining_s(1040.0) == 60.0
    assert plan.after_failure(1099.0) is not None
    assert plan.after_failure(1099.99) is None
    assert plan.remaining_s(2000.0) == 0.0


def test_the_store_may_ask_for_a_longer_pause() -> None:
    plan = RetryPlan(POLICY, plenty(), lambda: 0.0, 0.0)
    assert plan.after_failure(0.0, retry_after_s=7.0) == 7.0
    assert plan.after_failure(95.0, retry_after_s=7.0) is None


def test_wrong_checksums_are_tried_a_few_times_only() -> None:
    plan = RetryPlan(POLICY, plenty(), lambda: 0.0, 0.0)
    assert plan.after_failure(0.0, corrupt=True) is not None
    assert plan.after_failure(0.0) is not None
    assert plan.after_failure(0.0, corrupt=True) is not None
    assert plan.after_failure(0.0, corrupt=True) is None


def test_a_dead_store_sees_the_budget_and_not_the_crowd() -> None:
    """1,000 requests for 60 s against a dead store: a burst, then the rate, however short the back-off."""
    budget = RetryBudget(10, 2.0)
    policy = RetryPolicy(deadline_s=60.0, backoff_first_s=0.001, backoff_max_s=0.001, corrupt_tries_max=3)
    plans = [RetryPlan(policy, budget, Random(number).random, 0.0) for number in range(1000)]
    due: list[tuple[float, int]] = [(0.0, number) for number in range(1000)]
    retries = 0
    while due:
        due.sort()
        now_s, number = due.pop(0)
        pause = plans[number].after_failure(now_s)
        if pause is not None:
            retries += 1
            due.append((now_s + pause, number))
    assert retries <= 10 + 2.0 * 60 + 1


def test_a_refused_retry_takes_no_token() -> None:
    budget = RetryBudget(1, 0.001)
    plan = RetryPlan(POLICY, budget, lambda: 0.0, 0.0)
    assert plan.after_failure(0.0) is not None
    before = budget.tokens(0.0)
    assert plan.after_failure(0.0) is None
    assert budget.tokens(0.0) == before


def test_a_store_that_fails_one_request_in_five_is_not_slowed_down() -> None:
    budget = RetryBudget(tokens_max=32, tokens_per_s=4.0)
    for number in range(10_000):  # a thousand requests per second
        now_s = number / 1000
        if number % 5 == 0:
            assert budget.wait_s(now_s) == 0.0, f"request {number} waits"
            budget.take(now_s)
        budget.succeeded(now_s)
    assert budget.tokens(10.0) <= 32


def test_the_budget_fills_up_to_its_size_and_time_never_runs_back() -> None:
    budget = RetryBudget(5, 1.0)
    for _ in range(5):
        budget.take(10.0)
    assert budget.wait_s(10.0) == 1.0
    assert budget.wait_s(9.0) == 1.0
    assert budget.tokens(12.0) == 2.0
    assert budget.tokens(1000.0) == 5.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"try_timeout_s": 200.0},
        {"connect_timeout_s": 40.0},
        {"backoff_first_s": 20.0},
        {"uploads_in_flight_max": 0},
        {"unknown": 1},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BackendSettings.model_validate(wrong)


def test_every_setting_says_what_follows_from_it() -> None:
    for name, field in BackendSettings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name
