"""The sandbox command as an operator runs it: a process, its output, its signals."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.tools import require_tool

Start = Callable[..., tuple["subprocess.Popen[str]", str, str | None]]


def _journey(journey_id: str, start: datetime) -> dict[str, Any]:
    end = start + timedelta(minutes=30)

    def person(phone: str) -> dict[str, Any]:
        return {
            "identity": {"phone": phone},
            "start": {"datetime": start.isoformat(), "lat": 48.85, "lon": 2.36},
            "end": {"datetime": end.isoformat(), "lat": 48.68, "lon": 2.38},
            "incentives": [],
        }

    return {
        "journey_id": journey_id,
        "operator_class": "C",
        "driver": {**person("+33612345678"), "revenue": 400},
        "passenger": {**person("+33687654321"), "contribution": 150},
    }


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command on a free port: the process, the address and the token that it prints."""
    with contextlib.ExitStack() as stack:

        def run(*arguments: str) -> tuple["subprocess.Popen[str]", str, str | None]:
            process = subprocess.Popen(
                [sys.executable, "-m", "consumer", "sandbox", "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            first = process.stdout.readline()
            found = re.fullmatch(r"sandbox Registry \(20\d\d\) on (https?://\S+)\n", first)
            assert found is not None, (first, process.stderr and process.stderr.read())
            token = None
            if "--token" not in arguments:
                token = process.stdout.readline().removeprefix("token: ").strip()
            return process, found[1], token

        yield run


def _post(url: str, token: str, payload: Any, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(trust_env=False, **options) as client:
        return client.post(f"{url}/v2/journeys", json=payload, headers=headers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_session(start: Start, number: signal.Signals) -> None:
    """The printed token works, the log has no value of it, and a signal ends the command with 0."""
    process, url, token = start()
    assert token
    payload = _journey("session-1", datetime.now(UTC) - timedelta(hours=1))
    assert [_post(url, token, payload).status_code for _ in range(2)] == [201, 409]
    assert _post(url, "another", payload).status_code == 401
    process.send_signal(number)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    lines = [line.split(maxsplit=2)[2] for line in log.splitlines()]
    assert lines == [f"POST /v2/journeys {status} session-1" for status in (201, 409, 401)]
    assert token not in log
    assert "+33" not in log


def test_flags(start: Start) -> None:
    """Profile, tokens, keys, operator, clock, limit and faults are all flags."""
    now = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)
    _, url, _ = start(
        "--token", "one", "--token", "two", "--now", now.isoformat(), "--rate-limit", "4", "--quiet"
    )
    answer = _post(url, "two", _journey("flags-1", now - timedelta(hours=1)))
    assert (answer.status_code, answer.headers["x-ratelimit-limit"]) == (201, "4")
    assert answer.json()["created_at"].startswith("2026-11-23T16:00:")
    assert _post(url, "one", _journey("flags-2", now)).status_code == 422
    _, url, _ = start("--token", "one", "--profile", "2023", "--operator-id", "7")
    payload = _journey("flags-3", datetime.now(UTC) - timedelta(hours=1))
    assert _post(url, "one", payload | {"operator_id": 7}).status_code == 200
    assert _post(url, "one", payload | {"operator_id": 1}).status_code == 403
    _, url, _ = start("--token", "one", "--access-key", "key", "--secret-key", "secret", "--maintenance")
    assert _post(url, "one", payload).status_code == 503
    httpx.post(f"{url}/_sandbox/faults", json={"maintenance": False}, trust_env=False)
    keys = {"access_key": "key", "secret_key": "secret"}
    answer = httpx.post(f"{url}/v3.3/auth/access_token", json=keys, trust_env=False)
    assert _post(url, answer.json()["access_token"], payload).status_code == 201
    _, url, _ = start("--token", "one", "--no-v2", "--status-limit", "7", "--ok-after-seconds", "0")
    assert _post(url, "one", payload).status_code == 404
    answer = httpx.get(
        f"{url}/v3.3/journeys?status=ok", headers={"Authorization": "Bearer one"}, trust_env=False
    )
    assert (answer.status_code, answer.headers["x-ratelimit-limit"]) == (200, "7")


def test_tls(start: Start, tmp_path: Path) -> None:
    """With a certificate it serves https, to those who trust it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate = tmp_path / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    _, url, token = start("--tls-certificate", str(certificate))
    assert url.startswith("https://")
    assert token
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    payload = _journey("tls-1", datetime.now(UTC) - timedelta(hours=1))
    assert _post(url, token, payload, verify=trusting).status_code == 201
    with pytest.raises(httpx.ConnectError):
        _post(url, token, payload)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--access-key", "only"], 2, "go together"),
        (["--error-rate", "2"], 2, "--error-rate: must be from 0 to 1"),
        (["--profile", "2019"], 2, "--profile"),
        (["--now", "yesterday"], 2, "--now"),
        (["--tls-certificate", "no-such-file"], 2, "--tls-certificate"),
        (["--rate-limit", "0"], 2, "--rate-limit"),
        (["--host", "203.0.113.1"], 1, "cannot listen on 203.0.113.1"),
    ],
)
def test_mistakes(arguments: list[str], code: int, expected: str) -> None:
    """A wrong flag is one line and exit code 2; an unusable address is 1; no traceback."""
    command = [sys.executable, "-m", "consumer", "sandbox", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == code
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_the_documentation_tells_the_truth(start: Start, tmp_path: Path) -> None:
    """Every example of docs/sandbox.md, run in its order, prints what the page says."""
    for tool in ("bash", "curl"):
        require_tool(tool)
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    [flags] = re.findall(r"\$ journey-consumer sandbox --port 8080 (--token .*?)```", page, re.DOTALL)
    _, url, _ = start(*flags.replace("\\\n", " ").split())
    examples = re.findall(r"```sh\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(examples) == page.count("```sh\n")
    expected = [f"{text}--\n" for _, text in examples]
    script = "\n".join(["set -e", *(f"{code}echo --" for code, _ in examples)])
    done = subprocess.run(
        ["bash", "-c", script.replace("http://127.0.0.1:8080", url)],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "".join(expected), done.stderr
