"""Bucketing: another rule over the means of random buckets of s uploads.

S. P. Karimireddy, L. He, M. Jaggi. "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing." ICLR 2022.
arXiv:2006.09365

    a random order of the clients, cut into m = ceil(n / s) buckets;  b_q = plain mean of bucket q's rows
    out = rule(b_1 .. b_m), with the same f: at most f buckets hold a malicious client

Means differ less than clients do, so that honest ones with unusual data look less like outliers; in return the share
that is tolerated shrinks by about s, as the rule's condition must hold for m and f. Refused in methods with one mixed
model per client, because a bucket belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, hyper
from fltk.memory.products import Gram
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE, weighted_sum

RULES = ("median", "trimmed-mean", "krum", "bulyan", "rfa", "centered-clip")


@dataclass(frozen=True)
class Bucketing(Defence):
    """A rule that sees means of a few clients at a time."""

    title: ClassVar[str] = "another rule over means of random buckets"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS), frozenset({"combine"}))
    refusals: ClassVar[Mapping[str, str]] = {MIXED: "the mean of a bucket belongs to no client"}
    condition: ClassVar[str] = "the condition of its rule for n/s buckets"
    rejects: ClassVar[bool] = False

    size: int = hyper(2, "clients in a bucket, s", low=1)
    rule: str = hyper("median", "rule for the means of buckets", choices=RULES)

    @property
    def inner(self) -> Defence:
        """The rule, with its own defaults."""
        from fltk import catalogue

        made: Defence = catalogue.find("defence", self.rule, "--set-defence rule")()
        return made

    def most(self, n: int) -> int:
        return self.inner.most(-(-n // self.size))

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        assert facts.origin is not None
        buckets = torch.split(torch.randperm(len(rows), generator=facts.generator), self.size)
        means = [mean_of(rows, sorted(bucket.tolist())) for bucket in buckets]
        p = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
        moved = Gram(means, facts.origin[: facts.parameters])
        told = replace(facts, ids=tuple(range(len(means))), weights=p, gram=moved)
        found = self.inner.combine(means, p, told, state)
        used = torch.zeros_like(weights)
        for bucket, share in zip(buckets, found.used, strict=True):
            used[bucket] = share / len(bucket)
        return replace(found, used=used)


def mean_of(rows: Sequence[Tensor], ids: Sequence[int]) -> Tensor:
    """Plain mean of some of the rows (P,); the row itself where it is one."""
    if len(ids) == 1:
        return rows[ids[0]]
    return weighted_sum([rows[k] for k in ids], torch.full((len(ids),), 1 / len(ids), dtype=torch.float64))
