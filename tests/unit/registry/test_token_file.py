"""The token in a file: rotation as Kubernetes does it, and files that hold no token."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.outcome import Misconfigured
from consumer.errors import ConfigurationError
from consumer.registry.secret import UnusableSecretError, read_secret, usable_secret
from consumer.registry.tokens import FileToken, StaticToken
from tests.clock import FakeClock
from tests.waiting import await_until

OLD, NEW = "old-token-hidden", "new-token-hidden"


class Mount:
    """A Secret as the kubelet mounts it: ``token`` -> ``..data/token``, ``..data`` -> a directory."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.version = root, root / "token", 0
        self.swap(OLD)
        self.path.symlink_to("..data/token")

    def swap(self, content: str | None) -> None:
        """Put a new version in place at once, like the kubelet; None: without the file."""
        self.version += 1
        directory = self.root / f"..version-{self.version}"
        directory.mkdir()
        if content is not None:
            (directory / "token").write_text(content)
            os.utime(directory / "token", ns=(1, 1))  # only the path tells one version from the next
        (self.root / "..tmp").symlink_to(directory.name)
        (self.root / "..tmp").rename(self.root / "..data")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    """A mounted Secret that holds the old token."""
    return Mount(tmp_path)


async def test_a_swapped_symlink_brings_the_new_token(mount: Mount) -> None:
    """Same size, same time of change: the path behind the link tells."""
    tokens = FileToken(mount.path)
    assert await tokens.token() == OLD
    assert not tokens.poll()
    mount.swap(NEW)
    assert await tokens.token() == OLD
    assert tokens.poll()
    assert not tokens.poll()
    assert await tokens.token() == NEW


async def test_a_file_rewritten_in_place_is_seen(tmp_path: Path) -> None:
    """Without a symlink, size and time of change tell."""
    path = tmp_path / "token"
    path.write_text(OLD)
    tokens = FileToken(path)
    path.write_text("a-longer-" + NEW)
    assert tokens.poll()
    assert await tokens.token() == "a-longer-" + NEW


async def test_the_same_token_again_is_no_change(mount: Mount) -> None:
    """A rotation that changes another key of the Secret swaps the link too."""
    tokens = FileToken(mount.path)
    before = tokens.held
    mount.swap(OLD)
    assert not tokens.poll()
    assert tokens.held is before


@pytest.mark.parametrize("content", [None, "", "\n", "two words", "caf\u00e9", "a\x00b"])
async def test_a_rotation_may_pass_through_a_bad_moment(
    mount: Mount, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good token stays in use, and the log says it once."""
    tokens = FileToken(mount.path)
    mount.swap(content)
    for _ in range(3):
        assert not tokens.poll()
        assert await tokens.token() == OLD
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    mount.swap(NEW)
    assert tokens.poll()
    assert await tokens.token() == NEW


@pytest.mark.parametrize(
    ("content", "detail"),
    [(None, "unreadable"), ("", "empty"), (" \r\n", "empty"), ("a\nb", "invalid"), ("x" * 8193, "invalid")],
)
async def test_no_token_from_the_start_is_our_mistake(
    tmp_path: Path, content: str | None, detail: str
) -> None:
    """Consumption pauses and nothing is dead-lettered; a token that arrives is taken at once."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    tokens = FileToken(path)
    assert await tokens.token() == Misconfigured(0, f"token_file_{detail}")
    assert not await tokens.renew("anything")
    path.write_text(NEW)
    assert await tokens.token() == NEW


async def test_a_directory_in_place_of_the_file_is_unreadable(tmp_path: Path) -> None:
    """Nothing is raised whatever the path is."""
    assert await FileToken(tmp_path).token() == Misconfigured(0, "token_file_unreadable")


async def test_a_file_that_became_readable_is_read_although_it_did_not_change(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions leave size and time as they are, so an unusable file is tried at every poll."""

    def refuse(_: object) -> str:
        raise UnusableSecretError("unreadable")

    with monkeypatch.context() as patch:
        patch.setattr("consumer.registry.tokens.read_secret", refuse)
        tokens = FileToken(mount.path)
        assert tokens.held is None
    assert tokens.poll()
    assert await tokens.token() == OLD


async def test_a_refused_token_is_looked_up_once_more(mount: Mount) -> None:
    """On a 401 the file is read at once; the answer is whether another token can be tried."""
    tokens = FileToken(mount.path)
    assert not await tokens.renew(OLD)
    mount.swap(NEW)
    assert await tokens.renew(OLD)
    assert await tokens.token() == NEW
    assert await tokens.renew(OLD)
    assert not await tokens.renew(NEW)


async def test_the_watch_reports_each_change_once(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a change that a refused token discovered first."""
    monkeypatch.setattr("consumer.registry.tokens.WATCH_INTERVAL_SECONDS", 0.001)
    tokens, seen = FileToken(mount.path), []
    watching = asyncio.create_task(tokens.watch(lambda: seen.append(tokens.held)))
    mount.swap(NEW)
    await await_until(lambda: len(seen) == 1)
    mount.swap("third-token")
    await tokens.renew(NEW)
    await await_until(lambda: len(seen) > 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert [held.secret for held in seen if held] == [NEW, "third-token"]


async def test_what_metrics_may_know(tmp_path: Path, clock: FakeClock) -> None:
    """When it was loaded, when it expires if it says so, and a fingerprint that is not the token."""
    path = tmp_path / "token"
    path.write_text("e30.eyJleHAiOjE4MDAwMDAwMDB9.sig\n")
    held = FileToken(path, now=clock.time).held
    assert held is not None
    assert (held.loaded_at, held.expires_at) == (clock.time(), 1_800_000_000)
    assert len(held.fingerprint) == 8


async def test_a_static_token_never_changes() -> None:
    """It is checked at the start, renews to nothing else, and there is nothing to watch."""
    tokens = StaticToken(f" {OLD}\n")
    assert await tokens.token() == OLD
    assert not await tokens.renew(OLD)
    assert await tokens.renew(NEW)
    await tokens.watch(lambda: pytest.fail("nothing changes"))
    await tokens.aclose()
    for bad in ("", "a b", "a\r\nX-Injected: 1", "\ud800"):
        with pytest.raises(ConfigurationError) as caught:
            StaticToken(bad)
        assert caught.value.__cause__ is None


async def test_the_token_shows_nowhere(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    """No representation, log line or exception holds a token."""
    caplog.set_level(logging.DEBUG)
    file, static = FileToken(mount.path), StaticToken(OLD)
    mount.swap(NEW)
    file.poll()
    with pytest.raises(UnusableSecretError) as caught:
        usable_secret(f"{NEW} {NEW}".encode())
    shown = [file, vars(file), file.held, static, vars(static), caught.value, vars(caught.value), caplog.text]
    assert caplog.text
    for text in [*map(repr, shown), *map(str, shown)]:
        assert OLD not in text
        assert NEW not in text


@given(st.binary(max_size=40))
def test_what_passes_is_fit_for_a_header(raw: bytes) -> None:
    """Whatever a file holds, what comes out is visible ASCII without spaces, or a refusal."""
    try:
        secret = usable_secret(raw)
    except UnusableSecretError:
        assert not raw.strip().isalnum()
    else:
        assert secret.isascii()
        assert secret.isprintable()
        assert " " not in secret
        assert secret.encode() == raw.strip()


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    """A wrong path can point to anything: reading is bounded."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(50_000_000_000)
    with pytest.raises(UnusableSecretError, match="invalid"):
        read_secret(path)
