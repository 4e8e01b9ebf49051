"""What a Registry does to its clients on bad days, and what the service makes of it.

The real process against a real queue; each test ends with every journey accounted for.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.sandbox.faults import Throttle
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.service import ServiceProcess
from tests.waiting import wait_until


def paused(service: ServiceProcess, cause: str) -> Callable[[], bool]:
    """Whether ``cause`` pauses consumption, as the metric says."""
    return lambda: service.value("paused", cause=cause) == 1


def attempts(service: ServiceProcess) -> set[int]:
    """Return the attempts that the settled journeys needed, as logged."""
    return {line["attempts"] for line in service.log_lines("settled")}


def after(seconds: float) -> Callable[[], bool]:
    """Become true after so many seconds."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


# --- Slow, silent, gone -------------------------------------------------------------------------


def test_a_slow_registry(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Everything is registered at the first attempt, never with more requests under way than allowed."""
    service = serve(vhost, registry_concurrency="8")
    sandbox.faults.latency_seconds = 0.3
    began = time.monotonic()
    ledger.publish(60)
    wait_until(lambda: service.value("in_flight") >= 8, 10, "deliveries are in flight")
    ledger.await_settled()
    assert time.monotonic() - began >= 60 / 8 * 0.3
    assert sandbox.most_in_flight == 8
    assert attempts(service) == {1}
    assert len(ledger.balance(sandbox).registered) == 60


def test_a_registry_that_closes_idle_connections(
    serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """A connection that was closed meanwhile costs at most a repetition, never a journey."""
    service = serve(vhost, registry_concurrency="4")
    sandbox.faults.close_idle_seconds = 0.15
    for pause in (0.0, 0.1, 0.145, 0.15, 0.155, 0.2, 0.4):
        wait_until(after(pause), 5, interval=0.001)
        ledger.publish(8)
        ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 56
    assert service.value("paused", cause="unavailable") == 0
    assert max(attempts(service)) <= 3


def test_answers_that_get_lost(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The journey is stored, the answer is not received: sent again, 409, acknowledged."""
    service = serve(vhost, breaker_threshold="1000")
    sandbox.faults.for_next(30, drop_connection="before_answer")
    ledger.publish(30)
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 30
    assert {stored.times_seen for stored in sandbox.journeys.values()} <= {1, 2, 3}
    again = service.value("journeys_total", outcome="already_registered")
    assert again == sum(stored.times_seen > 1 for stored in sandbox.journeys.values()) > 0
    assert again + service.value("journeys_total", outcome="registered") == 30


def test_half_of_the_answers_fail(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """A Registry that works badly is not one that is down: everything gets through."""
    service = serve(vhost, breaker_threshold="20")
    sandbox.faults.error_rate = 0.5
    ledger.publish(100)
    ledger.await_settled(60)
    account = ledger.balance(sandbox)
    assert len(account.registered) == 100
    assert service.value("retries_total", reason="5xx") + service.value("returned_total", kind="delayed") > 20


# --- Tokens -------------------------------------------------------------------------------------


def test_a_storm_of_401(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Revoked under load: few dead letters, few probes, and resumption when the token is valid again."""
    service = serve(vhost, auth_pause_after="10", registry_concurrency="8", auth_probe_seconds="1")
    ledger.publish(100)
    ledger.await_settled()
    sandbox.revoke(TOKEN)
    ids = ledger.publish(400)
    wait_until(paused(service, "unauthorized"), 20, "consumption pauses")
    refused = ledger.topology.dead_letter_queue("unauthorized")
    wait_until(lambda: vhost.depth(refused).total == vhost.depth(refused).ready, 10)
    asked = len(sandbox.requests)
    wait_until(after(3), 5)
    assert len(sandbox.requests) - asked <= 8, "one probe at a time, each asked at most twice"
    letters = vhost.depth(refused).total
    assert 10 <= letters <= 10 + 8
    assert service.value("token_accepted") == 0
    sandbox.accept(TOKEN)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert len(account.dead["unauthorized"]) == letters
    assert len(account.registered & set(ids)) == 400 - letters
    assert service.value("token_accepted") == 1


def test_a_token_is_rotated_under_load(
    serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry, tmp_path: Path
) -> None:
    """The kubelet swaps a symlink, then the old token is revoked: no journey is refused for it."""
    mount = tmp_path / "mounted"

    def swap(version: str, token: str) -> None:
        (mount / version).mkdir(parents=True)
        (mount / version / "token").write_text(token)
        (mount / "..tmp").symlink_to(version)
        (mount / "..tmp").rename(mount / "..data")

    swap("..1", TOKEN)
    (mount / "token").symlink_to("..data/token")
    service = serve(vhost, registry_token_file=str(mount / "token"), auth_pause_after="3")
    with ledger.load(most=3_000):
        for number in range(2, 5):
            ledger.await_published(len(ledger.published) + 100)
            sandbox.accept(f"token-{number}")
            swap(f"..{number}", f"token-{number}")
            sandbox.revoke(TOKEN if number == 2 else f"token-{number - 1}")
            ledger.await_published(len(ledger.published) + 100)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert account.dead == {}
    assert len(account.registered) == len(ledger.published) >= 600
    assert sandbox.requests_by_status.get(401, 0) <= 3 * 128, "only what was under way met the old token"
    assert service.value("breaker_transitions_total", cause="unauthorized", to="open") == 0
    for token in (TOKEN, "token-2", "token-3", "token-4"):
        assert token not in service.log()


@pytest.mark.parametrize("trouble", ["expiry", "revoked", "wrong keys"])
def test_the_key_exchange(serve: Run, vhost: Broker, tmp_path: Path, trouble: str) -> None:
    """v3.3: a token for keys, renewed before it expires, at most five exchanges a minute."""
    keys = {"access_key": "the-access-key", "secret_key": "the-secret-key"}
    lifetime = 3.0 if trouble == "expiry" else 300.0
    secret = tmp_path / "secret-key"
    secret.write_text("not-the-secret-key" if trouble == "wrong keys" else keys["secret_key"])
    with LocalRegistry(tokens=[], access_token_lifetime_seconds=lifetime, **keys) as registry:
        journeys = Ledger(vhost, version="v3")
        service = serve(
            vhost,
            registry_url=registry.url,
            registry_api_version="v3.3",
            registry_token_file=None,
            registry_access_key=keys["access_key"],
            registry_secret_key_file=str(secret),
            auth_pause_after="3",
            registry_concurrency="2",
        )

        def exchanges() -> list[int]:
            return [each.status for each in registry.requests if each.path.endswith("access_token")]

        with journeys.load(most=600):
            journeys.await_published(100)
            match trouble:
                case "expiry":
                    wait_until(
                        lambda: journeys.publish(1) and len(exchanges()) >= 3,
                        20,
                        "renewed twice",
                        interval=0.1,
                    )
                case "revoked":
                    wait_until(lambda: len(registry.journeys) > 20, 20, "journeys are registered")
                    registry.tokens.revoke_exchanged()
                    wait_until(lambda: len(exchanges()) >= 2, 20, "exchanged again")
                case _:
                    wait_until(paused(service, "unauthorized"), 20, "consumption pauses")
                    wait_until(after(3), 5)
                    assert len(exchanges()) <= 5
                    secret.write_text(keys["secret_key"])
        journeys.await_settled(60)
        account = journeys.balance(registry)
        assert len(exchanges()) <= 5
        if trouble == "wrong keys":
            assert account.dead.keys() == {"unauthorized"}
            assert len(account.dead["unauthorized"]) <= 3 + 2
        else:
            assert account.dead == {}
        for key in (*keys.values(), "not-the-secret-key"):
            assert key not in service.log()


# --- The rate limit -----------------------------------------------------------------------------


def test_a_storm_of_429(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """All wait as long as the answers say, no journey pays an attempt, nothing is dead-lettered."""
    service = serve(vhost, registry_concurrency="4", retry_max_attempts="3")
    sandbox.faults.throttle = Throttle(retry_after_seconds=2)
    ledger.publish(100)
    wait_until(lambda: sandbox.requests_by_status[429] >= 1, 10, "throttled")
    wait_until(after(5), 10)
    assert sandbox.requests_by_status[429] <= 3 * 16, "what was under way, every two seconds"
    sandbox.faults.throttle = None
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (len(account.registered), account.dead) == (100, {})
    assert attempts(service) == {1}


def test_two_replicas_share_one_limit(
    serve: Run, ledger: Ledger, vhost: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither knows of the other; the answers tell what remains: together they use it up without a 429."""
    window, limit = 8.0, 240
    monkeypatch.setattr("consumer.sandbox.state._WINDOW_SECONDS", window)
    ledger.publish(3 * limit)
    rate = str(round(limit * 60 / window))
    with LocalRegistry(rate_limit=limit) as registry:
        services = [serve(vhost, registry_url=registry.url, registry_rate_per_minute=rate) for _ in range(2)]
        ledger.await_settled(60)
        requests = registry.requests
        began = requests[0].time
        used = Counter(int((each.time - began) // window) for each in requests if each.status == 201)
        throttled = sum(request.status == 429 for request in requests)
        assert throttled <= 0.02 * len(requests)
        assert used[1] >= 0.9 * limit, "the window in which both ran from its beginning to its end"
        shares = [service.value("journeys_total", outcome="registered") for service in services]
        assert sum(shares) == 3 * limit
        assert min(shares) >= 0.2 * sum(shares)
        assert ledger.balance(registry).dead == {}
