"""What a round tells of its attackers and its defence: scalars that are stored, and nothing that decides anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fltk import metrics
from fltk.attacks.base import Attack
from fltk.attacks.campaign import Campaign
from fltk.defences.guard import DefenceRound
from fltk.engine.base import Job
from fltk.engine.work import ClientScores
from fltk.objectives.base import headline_of
from fltk.protocol.averaging import MIXED
from fltk.protocol.map import Map
from fltk.protocol.state import State

Values = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def knowledge(attack: Attack) -> dict[str, float]:
    """What attackers know and whether they send one vector, 0 or 1: stored, so that a run says what it stands for."""
    known = {f"attack_knows_{what}": float(what in attack.sees) for what in ("benign", "defence")}
    return known | {"attack_colludes": float(attack.colludes)}


def verdicts(campaign: Campaign | None, watch: DefenceRound, ids: Sequence[int]) -> dict[str, float]:
    """Rejected are clients with trust below 0.5: how many, the shares of malicious and of benign ones, precision."""
    bad = {i for i in ids if campaign is not None and campaign.hits(watch.round, i)}
    rejected = {i for i in ids if float(watch.trust[i]) < 0.5}
    good = len(ids) - len(bad)
    return {
        "rejected": float(len(rejected)),
        "rejected_tpr": len(rejected & bad) / len(bad) if bad else math.nan,
        "rejected_fpr": len(rejected - bad) / good if good else math.nan,
        "rejected_precision": len(rejected & bad) / len(rejected) if rejected else math.nan,
    }


def weight_of_attackers(job: Job, found: Map | None, state: State, there: Sequence[int]) -> dict[str, float]:
    """Mean weight that benign clients give to malicious ones, and its ratio to that of an average client.

    Average among those whose models could enter: the participants, and with mixed rows everybody who ever sent one.
    """
    campaign = job.campaign
    if campaign is None or not campaign.malicious or found is None:
        return {}
    entered = set(there)
    if job.method.averages == MIXED:
        entered = set(torch.nonzero(state.last >= 0).flatten().tolist())
    bad = sorted(entered & set(campaign.malicious))
    good = [i for i in range(len(state.last)) if i not in campaign.malicious]
    if not bad or not good:
        return {}
    weight = float(found.whole()[good][:, bad].mean())
    return {"mal_weight": weight, "mal_weight_ratio": weight * len(entered)}


def outcome(job: Job, vectors: Mapping[str, Values], scores: Sequence[ClientScores]) -> dict[str, float]:
    """Headline measure of the worst benign and of malicious clients on clean test data, and a backdoor's success."""
    campaign = job.campaign
    measure = headline_of(job.federation.objective)
    column = f"test_{measure.key}"
    if campaign is None or not campaign.malicious or f"personal_{column}" not in vectors:
        return {}
    bad = np.isin(np.arange(len(scores)), campaign.malicious)
    own = vectors[f"personal_{column}"]

    told = {f"attacker_{column}": metrics.acc_mean(own[bad])}
    for name, key in (("personal", "benign"), ("global", "benign_global")):
        if f"{name}_{column}" in vectors:
            told[f"{key}_worst10_{column}"] = metrics.acc_worst10(vectors[f"{name}_{column}"][~bad], measure)

    fooled = [
        s.triggered.accuracy for s in scores if s.triggered is not None and s.triggered.n
    ]  # benign clients' alone
    if fooled:
        told["asr"] = metrics.acc_mean(np.array(fooled))
        told["asr_clients"] = float(len(fooled))
    return told
