"""Random values for every key, and whole configurations, for the tests of what holds for all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st

from localllm.config.convert import section_fields
from localllm.config.schema import SECTIONS, Config

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
HOSTS = st.sampled_from(["127.0.0.1", "::1", "localhost"])
KEYS = st.text("abcABC123-_.", min_size=1, max_size=12)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXT)
TABLES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


def values(field: dataclasses.Field[Any], hint: Any) -> st.SearchStrategy[Any]:
    least, most = field.metadata.get("minimum"), field.metadata.get("maximum")
    if field.name == "host":
        return HOSTS
    if field.name == "api_keys":
        return st.lists(KEYS, max_size=3)
    if field.name == "define":
        return st.dictionaries(KEYS, st.dictionaries(KEYS, SCALARS, max_size=3), max_size=3)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint is float:
        most = most if most is not None else 1e300
        return st.floats(least, most, allow_nan=False, allow_infinity=False)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(least, most if most is not None else 2**63 - 1),
        bool: st.booleans(),
        str: TEXT,
        Path: TEXT.filter(lambda text: bool(text) and not text.startswith("~")).map(lambda text: Path("/base") / text),
    }
    if hint in kinds:
        return kinds[hint]
    if get_origin(hint) is list:
        return st.lists(kinds[get_args(hint)[0]], max_size=4)
    members = [member for member in get_args(hint) if member is not type(None)]
    found = st.one_of(values(field, member) for member in members)
    return found | st.none() if type(None) in get_args(hint) else found


def sections(kind: type) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values(field, hint) for name, (field, hint) in section_fields(kind).items()})


CONFIGS = st.builds(
    Config,
    **{name: sections(kind) for name, kind in SECTIONS.items()},
    state_directory=TEXT.filter(bool).map(lambda text: Path("/base") / text),
)
