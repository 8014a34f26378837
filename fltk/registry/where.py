"""Conditions on a run's configuration, as typed after `--where`: alpha<0.5, method=attn, train.rounds>=30."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

from fltk.config import canonical_json
from fltk.errors import UsageError

_PATTERN = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(<=|>=|!=|==|=|<|>)\s*([^<>=!\s].*?)\s*", re.DOTALL)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Names = tuple[Any, ...]  # keys; a table is (key, Names)
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Condition:
    """`key` is a dotted path or its last part; `sign` one of = != < <= > >=; `value` as typed."""

    key: str
    sign: str
    value: str

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether a run's configuration has the setting and fulfils the condition."""
        path = resolve(self.key, config)
        if path is None:
            return False
        found = reduce(operator.getitem, path, config)
        if self.sign in _ORDER:
            number = _number(found)
            return number is not None and _ORDER[self.sign](number, float(self.value))
        return _equal(found, self.value) == (self.sign == "=")


def parse(text: str) -> Condition:
    """Read one condition; UsageError naming --where when it is none."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(f"--where takes conditions such as 'alpha<0.5' or method=attn, not {text!r}")
    key, sign, value = match[1].replace("-", "_"), match[2].replace("==", "="), match[3]
    if sign in _ORDER and _number(value) is None:
        raise UsageError(f"--where {text}: {sign} compares numbers, and {value!r} is none")
    return Condition(key, sign, value)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted paths: {"train": {"lr": 1}} -> {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resolve(key: str, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The keys, table by table, that lead to what `key` means, or None.

    A bare name means what the option of that name means: partition and training come before a method's own
    parameter of the same name, which is reached as params.NAME.
    """
    return _path(key, _names(config))


def _names(config: Mapping[str, Any]) -> Names:
    """The keys of a configuration, without its values."""
    return tuple([(key, _names(value)) if isinstance(value, dict) else key for key, value in config.items()])


def _paths(names: Names) -> Iterator[tuple[str, ...]]:
    for name in names:
        if isinstance(name, str):
            yield (name,)
        else:
            yield from ((name[0], *rest) for rest in _paths(name[1]))


@lru_cache(maxsize=1024)  # ten thousand configurations have a handful of shapes
def _path(key: str, names: Names) -> tuple[str, ...] | None:
    paths = {".".join(path).replace("-", "_"): path for path in _paths(names)}
    if key in paths:
        return paths[key]
    ends = [path for plain, path in paths.items() if plain.endswith("." + key)]
    return min(ends, key=lambda path: (path[0] == "params", ".".join(path)), default=None)


def unknown_in(conditions: Iterable[Condition], configs: Iterable[Mapping[str, Any]]) -> list[Condition]:
    """The conditions on a setting that none of these configurations has; looks no further than it must."""
    left = list(conditions)
    for config in configs if left else ():
        left = [condition for condition in left if resolve(condition.key, config) is None]
        if not left:
            break
    return left


def check_known(conditions: Iterable[Condition], configs: Iterable[Mapping[str, Any]]) -> None:
    """UsageError for a setting that no run has: a typing error would otherwise look like an empty result."""
    stored = list(configs)
    for condition in conditions:
        if not stored or any(resolve(condition.key, config) is not None for config in stored):
            continue
        names = sorted({path for config in stored for path in flatten(config)})
        last = sorted({name.rpartition(".")[2] for name in names})
        close = difflib.get_close_matches(condition.key, [*last, *names], n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(last)}"
        raise UsageError(f"--where: no run has a setting {condition.key!r}; {hint}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _equal(found: Any, text: str) -> bool:
    if isinstance(found, str):
        return found == text
    if found is None:
        return text.lower() in ("none", "null")
    if isinstance(found, bool) and text.lower() in _WORDS:
        return found is _WORDS[text.lower()]
    if isinstance(found, (bool, int, float)):
        return _number(text) == float(found)
    return canonical_json(found) == text
