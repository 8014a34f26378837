"""What differs between the circumstances of a run, as `fltk.registry.capture` recorded them, and others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "-"
# Libraries whose arithmetic enters a result.
NUMERICAL = ("numpy", "scipy", "scikit-learn")
_CAPABILITY = re.compile(r"CPU capability usage: (\S+)")


@dataclass(frozen=True)
class Change:
    """One circumstance that differs. `decisive`: it can change the bits of a result; the others should not."""

    name: str
    then: str
    now: str
    decisive: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.then} then, {self.now} now"


def changes(
    then: tuple[Mapping[str, Any], Mapping[str, Any]], now: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> list[Change]:
    """The differences between two pairs (environment, git state), decisive ones first."""
    found = []
    for decisive, part in ((True, _decisive), (False, _other)):
        before, after = part(*then), part(*now)
        for name in {**before, **after}:
            old, new = before.get(name, ABSENT), after.get(name, ABSENT)
            if old != new:
                found.append(Change(name, old, new, decisive))
    return found


def facts(environment: Mapping[str, Any], git: Mapping[str, Any]) -> dict[str, str]:
    """Everything that `changes` compares, decisive circumstances first."""
    return {**_decisive(environment, git), **_other(environment, git)}


def _decisive(environment: Mapping[str, Any], git: Mapping[str, Any]) -> dict[str, str]:
    torch = environment.get("torch", {})
    config = str(torch.get("config", ""))
    capability = _CAPABILITY.search(config)
    device = str(environment.get("device", "cpu"))
    facts = {
        "fltk code": str(git.get("core_sha256", ABSENT))[:12],
        "torch": str(torch.get("version", ABSENT)),
        "torch build": _mark(_CAPABILITY.sub("", config)),
        "CPU capability": capability[1] if capability else ABSENT,
        "random streams": str(environment.get("streams", ABSENT)),
        "device": device,
    }
    if device != "cpu":
        facts["GPU"] = ", ".join(torch.get("gpus", [])) or ABSENT
    packages = environment.get("packages", {})
    return facts | {name: str(packages.get(name, ABSENT)) for name in NUMERICAL}


def _other(environment: Mapping[str, Any], git: Mapping[str, Any]) -> dict[str, str]:
    torch = environment.get("torch", {})
    facts = {name: str(environment.get(name, ABSENT)) for name in ("python", "os", "machine", "cpu", "usable_cores")}
    facts["torch threads"] = str(torch.get("threads", ABSENT))
    facts |= {str(name): str(value) for name, value in environment.get("variables", {}).items()}
    facts["fltk package"] = str(git.get("fltk_sha256", ABSENT))[:12]
    facts["git commit"] = str(git.get("commit") or ABSENT)[:12]
    facts["git changes"] = str(git.get("diff_hash", ABSENT))[:12]
    folder = git.get("folder", {})  # the current folder, where that is in another repository than fltk
    facts["git commit of the folder"] = str(folder.get("commit") or ABSENT)[:12]
    facts["git changes of the folder"] = str(folder.get("diff_hash", ABSENT))[:12]
    rest = {k: v for k, v in environment.get("packages", {}).items() if k not in (*NUMERICAL, "torch")}
    return facts | {f"package {name}": str(version) for name, version in rest.items()}


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ABSENT
