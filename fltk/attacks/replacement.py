"""Model replacement: an update so long that the average becomes the attacker's model.

E. Bagdasaryan, A. Veit, Y. Hua, D. Estrin, V. Shmatikov. "How To Backdoor Federated Learning." AISTATS 2020.
arXiv:1807.00459
"""

from __future__ import annotations

from torch import Tensor

from fltk.attacks.base import Group, Scene, Sent, sent_update
from fltk.protocol.averaging import CLUSTERS, ONE


def factor(group: Group, scene: Scene) -> float:
    """gamma = 1 / (eta_g sum_{k in M} p_k) among those who enter the same average, n where no weights are known."""
    known = scene.kind == ONE or (scene.kind == CLUSTERS and group.rule == "same-reference")
    if not known:
        return float(group.n)
    mass = [(scene.weights[s.client], s.client in group.malicious) for s in group.members]
    share = sum(p for p, bad in mass if bad) / sum(p for p, _ in mass)
    return 1 / (share * scene.server_step) if share * scene.server_step > 0 else float(group.n)


def replaced(own: Sent, group: Group, gamma: float, bound: float | None = None) -> Tensor:
    """The row r_k + gamma (w_k - r_k), of a length of at most `bound`. Buffers are not scaled."""
    if gamma == 1 and bound is None:
        return own.row
    g = group.updates([own])[0].double()
    if bound is not None:
        gamma = min(gamma, bound / max(float(g.norm()), 1e-300))
    return sent_update(own, gamma * g)
