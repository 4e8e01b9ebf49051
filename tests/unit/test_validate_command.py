"""The `validate` command: one line out for each line in, an exit code, and no personal value."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import schemas
from consumer.commands.cli import main
from tests.unit.schemas.payloads import SAMPLES, changed, strings

NOW = ["--now", "2026-03-02T12:00:00Z"]


def lines(path: Path, *payloads: object) -> str:
    """Write JSON Lines; what is bytes is written as it is."""
    path.write_bytes(
        b"".join((p if isinstance(p, bytes) else json.dumps(p).encode()) + b"\n" for p in payloads)
    )
    return str(path)


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was printed, parsed line by line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_all_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and `{"valid": true}` for each."""
    file = lines(tmp_path / "a", SAMPLES["v2-full"], SAMPLES["v2-least"])
    assert main(["validate", "--api-version", "v2", *NOW, file]) == 0
    assert capsys.readouterr().out == '{"valid": true}\n{"valid": true}\n'


@pytest.mark.parametrize("version", ["v3", "v3.2", "v3.3"])
def test_v3_by_any_of_its_names(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The served versions of v3 have the same rules."""
    file = lines(tmp_path / "a", SAMPLES["v3-full"], SAMPLES["v3-least"])
    assert main(["validate", "--api-version", version, *NOW, file]) == 0
    assert printed(capsys) == [{"valid": True}] * 2


def test_some_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1; every line of every file is validated, blank ones are skipped."""
    first = lines(tmp_path / "a", b"", b"{", SAMPLES["v2-full"], b"  \t\r")
    second = lines(tmp_path / "b", changed("v2-full", "driver.identity.phone", "+3369876543x"), b"[]")
    assert main(["validate", "--api-version", "v2", *NOW, first, second]) == 1
    broken, good, phone, array = printed(capsys)
    assert broken == {
        "valid": False,
        "line": 2,
        "errors": [{"path": "", "code": "not_json", "message": "is not JSON"}],
    }
    assert good == {"valid": True}
    assert [(e["path"], e["code"]) for e in phone["errors"]] == [("driver.identity.phone", "bad_format")]
    assert (phone["line"], array["line"]) == (1, 2)
    assert array["errors"][0]["message"] == "must be an object"


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file, or with -, lines come from standard input; the last may lack its end."""
    body = json.dumps(SAMPLES["v3-full"]).encode()
    for arguments in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body + b"\r\n" + body)))
        assert main(["validate", "--api-version", "v3", *NOW, *arguments]) == 0
        assert printed(capsys) == [{"valid": True}] * 2


@pytest.mark.parametrize(
    ("name", "path"), [("v2-full", "driver.end.datetime"), ("v2-least", "driver.end.datetime")]
)
def test_a_journey_that_is_not_over(
    name: str, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is invalid here, at the field that says so; --now without a zone is UTC."""
    file = lines(tmp_path / "a", SAMPLES[name])
    assert main(["validate", "--api-version", "v2", "--now", "2026-03-02T06:26:00", file]) == 1
    (answer,) = printed(capsys)
    assert [(e["path"], e["code"]) for e in answer["errors"]] == [(path, "ends_in_future")]


def test_the_clock_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --now, a journey of the year 9998 is in the future, one of 2000 is over."""
    later = changed("v3-full", "end.datetime", "9998-01-01T00:00:00Z")
    earlier = changed("v3-full", "end.datetime", "2000-01-01T00:00:00Z")
    earlier["start"]["datetime"] = "2000-01-01T00:00:00Z"
    assert main(["validate", "--api-version", "v3", lines(tmp_path / "a", later, earlier)]) == 1
    assert [answer["valid"] for answer in printed(capsys)] == [False, True]


def test_lines_longer_than_the_registry_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are one answer each, and what follows is read from its beginning; the limit itself is accepted."""
    body = json.dumps(SAMPLES["v3-full"]).encode()
    at_limit = body[:-1] + b" " * (schemas.MAX_BODY_BYTES - len(body)) + b"}"
    over = body[:-1] + b" " * (3 * schemas.MAX_BODY_BYTES) + b"}"
    sneaky = body + b" " * schemas.MAX_BODY_BYTES + b"x"
    just_over = body[:-1] + b" " * (schemas.MAX_BODY_BYTES - len(body) + 1) + b"}"
    file = lines(tmp_path / "a", over, at_limit + b"\r", sneaky, just_over, SAMPLES["v3-full"])
    assert main(["validate", "--api-version", "v3", *NOW, file]) == 1
    answers = printed(capsys)
    assert [answer["valid"] for answer in answers] == [False, True, False, False, True]
    assert {answer["errors"][0]["code"] for answer in answers if not answer["valid"]} == {"too_large"}


def test_an_api_version_in_the_payload_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is not the Registry's, although the service would strip it."""
    file = lines(tmp_path / "a", changed("v2-full", "api_version", "v3"))
    assert main(["validate", "--api-version", "v2", *NOW, file]) == 1
    (answer,) = printed(capsys)
    assert answer["errors"] == [
        {"path": "", "code": "unknown_key", "message": "has a key that the Registry refuses: api_version"}
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere/at/all"], "cannot read /nowhere/at/all: No such file or directory"),
        (["/"], "cannot read /: Is a directory"),
        (["--now", "soon"], "--now is not an ISO 8601 date and time"),
    ],
)
def test_unusable_as_asked(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line on standard error, nothing on standard output."""
    assert main(["validate", "--api-version", "v2", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"journey-consumer: {said}\n"


def test_a_reader_that_leaves_is_not_a_file_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`validate ... | head -1` does not report that the file cannot be read."""

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["validate", "--api-version", "v2", lines(tmp_path / "a", SAMPLES["v2-full"])]) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", SAMPLES)
def test_no_value_is_printed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every text of a sample, put where it is wrong, is absent from the output."""
    texts = [
        text for text in strings(SAMPLES[name]) if len(text) > 3 and text != "driver"
    ]  # a field name too
    paths = ("operator_class", "driver", "driver.identity.phone", "passenger.contribution")
    payloads = [changed(name, path, text) for path in paths for text in texts]
    payloads += [changed(name, text.replace(".", "_"), 1) for text in texts]
    main(["validate", "--api-version", name[:2], *NOW, lines(tmp_path / "a", *payloads)])
    out = capsys.readouterr().out
    assert out.count("\n") == len(payloads)
    assert not [text for text in texts if text in out or json.dumps(text)[1:-1] in out]


def test_a_document_and_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As people save them: over many lines, or several in one list."""
    document = tmp_path / "document"
    document.write_text(json.dumps(SAMPLES["v2-full"], indent=2))
    array = tmp_path / "array"
    array.write_text(json.dumps([SAMPLES["v2-full"], {}], indent=2))
    assert main(["validate", "--api-version", "v2", *NOW, str(document), str(array)]) == 1
    good, first, second = printed(capsys)
    assert good == first == {"valid": True}
    assert second["line"] == 2


def test_mapped_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict is about the payload that the mapping makes; --show prints it."""
    event = json.loads(json.dumps(SAMPLES["v2-full"]))
    for role in ("driver", "passenger"):
        event[role]["identity"] |= {"operator_user_id": "u", "lastname": "Martin", "phone": "+33639980001"}
        event[role]["start"] |= {"lat": 48.1, "lon": -1.6}
        event[role]["end"] |= {"lat": 47.2, "lon": -1.5}
        event[role]["incentives"] = []
    poor = json.loads(json.dumps(event))
    del poor["passenger"]["identity"]["lastname"]
    file = lines(tmp_path / "events", event, poor, b"[]", b"x")
    arguments = ["validate", "--api-version", "v3.3", *NOW, "--mapping", "v2-to-v3.3", file]
    assert main(arguments) == 1
    good, missing, *_others = printed(capsys)
    assert good == {"valid": True}
    assert missing["errors"][0]["path"] == "passenger.identity.identity_key"
    assert main([*arguments, "--show"]) == 1
    assert printed(capsys)[0]["payload"]["passenger"]["identity"]["phone"] == "+33639980001"
    assert main(["validate", "--api-version", "v2", "--show"]) == 2


def test_samples_are_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `sample` prints is what `validate` takes."""
    for version in ("v2", "v3.3"):
        run = subprocess.run(
            [sys.executable, "-m", "consumer", "sample", "--api-version", version, "--count", "3"],
            stdout=subprocess.PIPE,
            check=True,
        )
        file = tmp_path / version
        file.write_bytes(run.stdout)
        assert main(["validate", "--api-version", version, str(file)]) == 0
        assert printed(capsys) == [{"valid": True}] * 3
