"""The fields of a payload by name: every path that a violation can have, without the indexes of lists.

1. Read from the models, so that a new field has its path at once.
2. Names of the interface only; nothing here has ever seen a payload.
"""

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from typing_extensions import is_typeddict


def paths_of(model: type[Any], prefix: str = "") -> Iterator[str]:
    """Each field of a TypedDict and of those inside it or in its lists, dotted, parents first."""
    for name, kind in get_type_hints(model).items():  # without Annotated, NotRequired
        path = f"{prefix}{name}"
        yield path
        for inner in (kind, *get_args(kind)):
            if is_typeddict(inner):
                yield from paths_of(inner, f"{path}.")
