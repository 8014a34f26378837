"""What numbers are called, in which unit they are, and whether more of them is better, all read off their names."""

from __future__ import annotations

import re

from fltk.objectives.measures import MEASURES, measure_of

_LOWER = {
    "loss",
    "error",
    "err",
    *(key for key, measure in MEASURES.items() if not measure.higher_is_better),
    "std",
    "harmed",
    "seconds",
    "bytes",
    "asr",
    "drop",
    "gap",
    "malicious",
    "target",
    "mal",
    "fpr",
    "dropped",
    "epsilon",
}
_SHARES = {"density", "row_entropy", "self_weight", "mal_weight", "trust"}  # between 0 and 1, but no percent
_NAMES = {
    "asr": "attack success",
    "bytes_down": "bytes down (MB)",
    "bytes_up": "bytes up (MB)",
    "acc_new": "newcomers' test accuracy",
    "acc_incumbent": "incumbents' test accuracy",
    "mal_weight": "weight of attackers",
    "mal_weight_ratio": "weight of attackers (multiple of a fair share)",
}


def higher_is_better(name: str) -> bool:
    """Whether more is better."""
    return not _LOWER & set(re.split(r"[^a-z]+", name.lower()))


def is_percent(key: str) -> bool:
    """Whether the number is a fraction that is written as percent."""
    return key.endswith("_acc") or key == "asr" or key.startswith(("acc_", "rejected_"))


def is_share(key: str) -> bool:
    """Whether the number lies between 0 and 1."""
    return is_percent(key) or key in _SHARES


def scale(key: str) -> float:
    """The unit in which the number is drawn, in that in which it is stored: 1e6 for bytes, which are drawn as MB."""
    return 1e6 if key.startswith("bytes_") else 1.0


def named(key: str) -> str:
    """`personal_test_acc` as a person would say it, with its unit unless that is percent."""
    if key in _NAMES:
        return _NAMES[key]
    measure = measure_of(key)
    words = key
    if measure is not None and key.endswith(f"_{measure.key}"):
        words = key.removesuffix(measure.key) + measure.title
    elif measure is not None and key.endswith("_new"):
        words = f"newcomers' test {measure.title}"
    return words.replace("_", " ") + (" (s)" if key.startswith("seconds") else "")
