"""What the alerts about dead letters must do."""

from tests.deploy.rule_series import Case, always, another_pod, lasting, ours, queue, rising

_DEAD = {queue("messages", "journeys.completed.dead-letter.rejected"): always(1)}
_REFUSED = ours("dead_letters_refused_total", 'reason="invalid",cause="nacked"')
_NEAREST = "dead_letters_oldest_deadline_timestamp_seconds"
_DEADLINE = 24_000  # seconds: at minute 220 three hours are left, at minute 400 nothing
_PAGE, _WARNING = 'severity="critical"', 'severity="warning"'


def _near(reason: str, values: str = always(_DEADLINE, 500)) -> dict[str, str]:
    return {ours(_NEAREST, f'reason="{reason}"'): values}


DEAD_LETTERS = [
    Case(
        "JourneysDeadLettering",
        "9 an hour",
        90,
        fires=False,
        unlike={ours("dead_lettered_total", 'reason="invalid"'): rising(9 / 60)},
    ),
    Case(
        "JourneysDeadLettering",
        "11 an hour",
        90,
        fires=True,
        unlike={ours("dead_lettered_total", 'reason="invalid"'): rising(11 / 60)},
        which='reason="invalid"',
    ),
    Case(
        "JourneysDeadLettering",
        "9 an hour of each of two reasons",
        90,
        fires=False,
        unlike={
            ours("dead_lettered_total", f'reason="{each}"'): rising(9 / 60)
            for each in ("invalid", "rejected")
        },
    ),
    # A rate needs two scrapes, so that it begins with the second.
    *lasting(
        "JourneysDeadLetterRefused", 11, {_REFUSED: rising(20)}, which='reason="invalid",cause="nacked"'
    ),
    Case("JourneysDeadLetterRefused", "for a moment", 60, fires=False, unlike={_REFUSED: "0+20x5 100+0x150"}),
    *lasting("JourneysDeadLetterQueueNotEmpty", 60, _DEAD),
    Case(
        "JourneysDeadLetterQueueNotEmpty",
        "given up by the broker, seen per object",
        61,
        fires=True,
        unlike={
            queue("messages", "journeys.completed.dead-letter.delivery-limit", "rabbitmq_queue_"): always(1)
        },
    ),
    Case(
        "JourneysDeadLetterQueueNotEmpty",
        "another queue's",
        90,
        fires=False,
        unlike={queue("messages", "journeysXcompleted.dead-letter.rejected"): always(1)},
    ),
    # Less than three hours are left from minute 221 on, and the alert waits for ten minutes.
    *(
        case
        for reason, which in (
            ("unauthorized", _PAGE),
            ("forbidden", _PAGE),
            ("exhausted", _PAGE),
            ("delivery-limit", _PAGE),
            ("invalid", _WARNING),
            ("rejected", _WARNING),
        )
        for case in (
            Case(
                "JourneysDeadLetterDeadlineNear",
                f"three hours left for {reason}",
                230,
                fires=False,
                unlike=_near(reason),
            ),
            Case(
                "JourneysDeadLetterDeadlineNear",
                f"less than three hours for {reason}",
                231,
                fires=True,
                unlike=_near(reason),
                which=f'{which},reason="{reason}"',
            ),
        )
    ),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "a minute left",
        399,
        fires=True,
        unlike=_near("exhausted"),
        which=_PAGE,
    ),
    Case("JourneysDeadLetterDeadlineNear", "nothing left", 400, fires=False, unlike=_near("exhausted")),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "fixed by hand does not page",
        231,
        fires=False,
        unlike=_near("invalid"),
        which=_PAGE,
    ),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "by replay is a page",
        231,
        fires=False,
        unlike=_near("exhausted"),
        which=_WARNING,
    ),
    Case("JourneysDeadLetterDeadlineNear", "refused as expired", 231, fires=False, unlike=_near("expired")),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "replayed by the service before its next read",
        230,
        fires=False,
        unlike=_near("unauthorized", f"0+0x224 {_DEADLINE}+0x5 0+0x100"),
    ),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "another pod held them when this one looked",
        231,
        fires=True,
        unlike={another_pod(_NEAREST, 'reason="exhausted"'): always(_DEADLINE, 500)},
        which=_PAGE,
    ),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "another pod found only one that has more time",
        231,
        fires=True,
        unlike=_near("exhausted") | {another_pod(_NEAREST, 'reason="exhausted"'): always(80_000, 500)},
        which=_PAGE,
    ),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "this pod has not read yet that the lost one was removed",
        231,
        fires=True,
        unlike=_near("exhausted", always(60, 500))
        | {another_pod(_NEAREST, 'reason="exhausted"'): always(_DEADLINE, 500)},
        which=_PAGE,
    ),
    Case(
        "JourneysDeadLetterDeadlineNear",
        "another release's",
        231,
        fires=False,
        unlike={key.replace("proofs", "others"): value for key, value in _near("exhausted").items()},
    ),
]
