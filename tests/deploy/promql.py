"""As much of PromQL as the tests need: Grafana's variables put in, selectors and metric names taken out.

Whether an expression parses is asked of Prometheus itself, never decided here.
"""

import re
from collections.abc import Iterator, Mapping

from consumer.metrics import CATALOGUE, PREFIX

_STRING = r'"(?:[^"\\]|\\.)*"'
_SELECTOR = re.compile(rf"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)?\{{(?P<matchers>(?:{_STRING}|[^{{}}\"])*)\}}")
_MATCHER = re.compile(rf"(?P<label>\w+)\s*(?P<how>=~|!~|!=|=)\s*(?P<value>{_STRING})")
_VARIABLE = re.compile(r"\$\{(?P<braced>\w+)(?::(?P<form>\w+))?\}|\$(?P<plain>\w+)")


def with_variables(text: str, values: Mapping[str, str]) -> str:
    """Put values in for Grafana's variables; KeyError for a variable that the dashboard does not have."""

    def value(match: re.Match[str]) -> str:
        found = values[match["braced"] or match["plain"]]
        # Grafana escapes for a regular expression; the backslashes are then inside a PromQL string.
        return re.escape(found).replace("\\", "\\\\") if match["form"] == "regex" else found

    return _VARIABLE.sub(value, text)


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Each selector as (metric, {label: (operator, value)}); the metric may be a pattern of names."""
    for match in _SELECTOR.finditer(expression):
        found = {
            each["label"]: (each["how"], each["value"][1:-1]) for each in _MATCHER.finditer(match["matchers"])
        }
        name = match["name"] or found.pop("__name__")[1]
        yield name, found


def bare(expression: str) -> str:
    """The expression without strings and matchers: what is left are names, functions, numbers."""
    return re.sub(r"\{[^{}]*\}", "", re.sub(_STRING, "", expression))


def names(expression: str) -> set[str]:
    """Every metric that the expression names, with braces or without."""
    loose = re.findall(r"\b(?:journey_consumer|rabbitmq|process|release)[:_][\w:]+", bare(expression))
    return {name for name, _ in selectors(expression)} | set(loose)


def exposed() -> set[str]:
    """Every name that the catalogue's metrics have on the wire."""
    found = set()
    for entry in CATALOGUE:
        suffixes = ("_bucket", "_count", "_sum") if entry.type == "histogram" else ("",)
        found |= {PREFIX + entry.name + suffix for suffix in suffixes}
    return found


def family(name: str) -> str:
    """The catalogue's name of a series, without prefix."""
    stem = name.removeprefix(PREFIX)
    histograms = {entry.name for entry in CATALOGUE if entry.type == "histogram"}
    short = re.sub(r"_(bucket|count|sum)$", "", stem)
    return short if short in histograms else stem
