"""Who resembles whom, from class tables: features are compared within classes, so that label proportions drop out.

fltk's own rule. Client i sends, once, for each class c with at least two samples: n_ic, the mean P_ic (F,) of the
features that the last layer sees under the common initial model, and the scatter Q_ic = sum ||f - P_ic||^2. The server
holds tables of K clients and C classes:

    mu   = sum n_ic P_ic / sum n_ic,   p_ic = P_ic - mu                        centred class means
    s_c  = sum_i Q_ic / max(1, sum_i max(0, n_ic - 1))                         variance of one sample around its mean
    B_c  = sum_i n_ic (|p_ic|^2 - s_c / n_ic) / sum_i n_ic                     squared length of a noiseless mean
    h_ijc = n_ic n_jc / (n_ic + n_jc),   w_ij = sum_c h_ijc                    effective number of shared samples
    S_ij = sum_c h_ijc <p_ic, p_jc> / sum_c h_ijc B_c,  clipped to [-1, 1]     similarity
    b_ij = w_ij / (w_ij + 4)                                                   belief: how far S_ij is to be trusted

The noise of p_ic and of p_jc is independent, so that S_ij is 1 in expectation for two clients of one distribution,
whatever their sizes; a cosine would grow with n. Clients that share no class have b_ij = 0: nothing is known of them.

A second layer attends over the tokens once more. near_ij = [S_ij b_ij > .6] or i = j; client i is replaced by the
pooled samples of near(i) without those of j, which gives S, w and b anew between the pool of i and j. Numerators and
denominators of (i, j) and (j, i) are added, w is halved.

    m_i   = max(0, max_{j != i, j a key} S_ij b_ij)                            believed similarity of the best peer
    g_ij  = b_ij max(0, m_i - S_ij),  g_ii = 0                                 gap to the best peer
    tau_i = tau max(1, (1 - m_i) / .25)
    A_ij  proportional to n_j^gamma exp(-g_ij^2 / (2 tau_i^2))                 the map; unknown pairs are not cut off

Client i is lone, and keeps its model, only if it would be unlike every other client even if all that is unknown of it
spoke for it: max_j (S_ij b_ij + 1 - b_ij) < lone median_i m_i.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fltk.attention.attend import Attention, Options, finish, prior
from fltk.attention.newcomer import Others, Row, mean_row
from fltk.attention.scores import softmax_rows

KAPPA = 4.0  # effective shared samples at which a similarity is half believed
NEAR = 0.6  # believed similarity above which clients pool their tables
LAYERS = 2
TAU = 0.15  # width of the gap score
SLACK = 0.25  # a best peer nearer than 1 - SLACK leaves the width as it is
LONE = 0.5
SMALLEST = 0.1  # B_c is at least this share of its mean over classes


def class_table(features: Tensor, labels: Tensor, n_classes: int, least: int = 2) -> Tensor:
    """A client's table (C, F + 1) float32: class means, and in the last column the scatter Q_ic.

    features: (n, F) under the common initial model.  labels: (n,).  Classes with fewer than `least` samples are zero:
    the mean of one sample is that sample.
    """
    samples = labels.bincount(minlength=n_classes)
    totals = torch.zeros(n_classes, features.shape[1], dtype=torch.float64)
    means = totals.index_add_(0, labels, features.double()) / samples.clamp_min(1)[:, None]

    deviations = (features.double() - means[labels]).square().sum(1)  # (n,)
    scatter = torch.zeros(n_classes, dtype=torch.float64).index_add_(0, labels, deviations)

    table = torch.cat([means, scatter[:, None]], 1).float()
    table[samples < least] = 0
    return table


def sent_counts(counts: Tensor, least: int = 2) -> Tensor:
    """Samples per class that tables speak of: (..., C), zero for classes with fewer than `least`."""
    return torch.where(counts >= least, counts, torch.zeros_like(counts))


@dataclass(frozen=True)
class Evidence:
    """What class tables say of K clients."""

    similarity: Tensor  # (K, K) float64 in [-1, 1], symmetric, 1 on the diagonal
    belief: Tensor  # (K, K) float64 in [0, 1), symmetric


def evidence(tables: Tensor, counts: Tensor, layers: int = LAYERS) -> Evidence:
    """Similarity and belief of K clients from their tables (K, C, F + 1) and the samples behind these (K, C)."""
    n = counts.double()
    means, scatter = tables[..., :-1].double(), tables[..., -1].double()
    centre = torch.einsum("kc,kcf->f", n, means) / n.sum().clamp_min(1)
    p = (means - centre) * (n > 0)[..., None]  # (K, C, F)
    scale = _scale(p, scatter, n)

    near = torch.eye(len(n), dtype=torch.bool)  # in the first layer each client is its own pool
    found = _compare(near, p, n, scale)
    for _ in range(layers - 1):
        near = (found.similarity * found.belief > NEAR) | torch.eye(len(n), dtype=torch.bool)
        found = _compare(near, p, n, scale)
    return found


def _scale(p: Tensor, scatter: Tensor, n: Tensor) -> Tensor:
    """B_c (C,), from centred means (K, C, F), scatters (K, C) and samples (K, C)."""
    variance = scatter.sum(0) / (n - 1).clamp_min(0).sum(0).clamp_min(1)
    noiseless = p.square().sum(-1) - variance / n.clamp_min(1)
    b = (n * noiseless).sum(0) / n.sum(0).clamp_min(1)
    return b.clamp_min(SMALLEST * float(b.mean().clamp_min(1e-12)))


def _compare(near: Tensor, p: Tensor, n: Tensor, scale: Tensor) -> Evidence:
    """Evidence between the pools `near` (K, K) bool and single clients, class by class to bound the memory."""
    k = len(n)
    pool = near.double()
    numerator = torch.zeros(k, k, dtype=torch.float64)
    denominator, shared = torch.zeros_like(numerator), torch.zeros_like(numerator)

    for c in range(n.shape[1]):
        samples, mean = n[:, c], p[:, c]  # (K,), (K, F)
        # samples and sums of i's pool, without what j itself put in
        pooled = ((pool @ samples)[:, None] - pool * samples).clamp_min(0)  # (K, K)
        total = (pool * samples) @ mean  # (K, F)
        product = total @ mean.t() - pool * (samples * mean.square().sum(1))  # (K, K)

        known = pooled > 1e-9  # subtraction leaves rounding errors where the pool was j alone
        h = known * pooled * samples / (pooled + samples).clamp_min(1e-12)
        numerator += h * product / pooled.clamp_min(1e-12)
        denominator += h * scale[c]
        shared += h

    similarity = (numerator + numerator.t()) / (denominator + denominator.t()).clamp_min(1e-12)
    similarity = similarity.clamp(-1, 1).fill_diagonal_(1.0)
    shared = (shared + shared.t()) / 2
    return Evidence(similarity, shared / (shared + KAPPA))


def attend_by_evidence(
    found: Evidence,
    options: Options,
    *,
    samples: Tensor | None = None,
    keys: Tensor | None = None,
    trust: Tensor | None = None,
) -> Attention:
    """The map of K clients from the evidence about them; further arguments as in `fltk.attention.attend`.

    Of the options, those count that are no matter of similarities: tau, lone, gamma, bias, self_weight and cap.
    """
    s, belief = found.similarity, found.belief
    own = torch.eye(len(s), dtype=torch.bool)
    peer = ~own if keys is None else ~own & keys

    best = (s * belief).masked_fill(~peer, -torch.inf).amax(1).clamp_min(0)  # m_i
    gap = ((best[:, None] - s).clamp_min(0) * belief).masked_fill(own, 0.0)
    width = options.width * ((1 - best) / SLACK).clamp_min(1)
    energy = -(gap / width[:, None]).square() / 2 + options.bias * own.double()
    if trust is not None:
        energy = energy + trust * ~own

    weights = softmax_rows(energy, prior(len(s), options.gamma, samples), peer | own)
    alone = _lone(found, peer, best, options.lone)
    return Attention(finish(weights, own, alone, options), s, best, alone)


def _lone(found: Evidence, peer: Tensor, best: Tensor, share: float) -> Tensor:
    """(K,) bool: clients that are unlike every peer even if what is unknown spoke for them."""
    if len(best) <= 2:  # a median of two says nothing
        return torch.zeros(len(best), dtype=torch.bool)
    hopeful = found.similarity * found.belief + 1 - found.belief
    hopeful = hopeful.masked_fill(~peer, -torch.inf).amax(1)
    return (hopeful < share * best.median()) & peer.any(1)


def newcomer_by_evidence(found: Evidence, others: Others, options: Options) -> Row:
    """A newcomer's row over the K others, from evidence (K + 1, K + 1) in which it stands last.

    Its own column is left out. Where nothing is known of it, or where it is lone, its row is the mean's.
    """
    mean = mean_row(others, options.gamma)
    keys = torch.cat([others.keys, torch.tensor([False])])
    if not bool((found.belief[-1] * keys).any()):
        return Row(mean, 0.0, True)

    samples = torch.cat([others.samples.double(), torch.ones(1, dtype=torch.float64)])
    trust = None if others.trust is None else torch.cat([others.trust, torch.zeros(1, dtype=torch.float64)])
    got = attend_by_evidence(found, options, samples=samples, keys=keys, trust=trust)
    ceiling = float(got.ceiling[-1])
    if bool(got.lone[-1]):
        return Row(mean, ceiling, True)

    row = got.map[-1, :-1]
    return Row(row / row.sum().clamp_min(1e-300), ceiling, False)
