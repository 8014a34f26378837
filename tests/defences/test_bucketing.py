"""Bucketing: another rule over means of random buckets."""

from __future__ import annotations

import pytest
import torch
from toys import random
from uploads import equal, merge, uploads

from fltk import defences
from fltk.defences.bucketing import RULES, Bucketing
from fltk.defences.median import Median
from fltk.defences.trimmed_mean import TrimmedMean
from fltk.protocol.averaging import weighted_sum


@pytest.mark.parametrize("rule", RULES)
def test_buckets_of_one_are_the_rule_itself(rule: str) -> None:
    rows, start = uploads(11)
    inner = merge(defences.create(rule, {}), rows, start, f=2)
    found = merge(Bucketing(size=1, rule=rule), rows, start, f=2)
    torch.testing.assert_close(found.row, inner.row, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.used, inner.used, rtol=1e-4, atol=1e-6)


def test_the_mean_of_buckets_of_equal_size_is_the_mean() -> None:
    rows, start = uploads(12)
    found = merge(Bucketing(size=3, rule="trimmed-mean"), rows, start, f=0)
    torch.testing.assert_close(found.row, weighted_sum(list(rows), equal(12)))
    torch.testing.assert_close(found.used, equal(12))


def test_buckets_come_from_the_generator_and_the_last_may_be_smaller() -> None:
    rows, start = uploads(7)
    at = torch.randperm(7, generator=torch.Generator().manual_seed(4)).split(3)
    means = torch.stack([rows[bucket].double().mean(0) for bucket in at]).float()
    found = merge(Bucketing(size=3), rows, start, seed=4)
    torch.testing.assert_close(found.row, merge(Median(), means, start).row)
    assert float(found.used.sum()) == pytest.approx(1)
    shares = [found.used[bucket].tolist() for bucket in at]
    assert all(len(set(share)) == 1 for share in shares)  # a client's weight is its bucket's, divided


def test_f_attackers_spoil_no_more_than_f_buckets() -> None:
    rows, start = uploads(12)
    bad = torch.cat([rows[:10], start + 1e6 * random(2, len(start), seed=1)])
    for seed in range(5):
        for rule in ("median", "trimmed-mean"):
            found = merge(Bucketing(rule=rule), bad, start, f=2, seed=seed)
            assert float((found.row - start).norm()) < 3 * float((rows - start).norm(dim=1).max())


@pytest.mark.parametrize("rule", RULES)
def test_the_condition_is_that_of_the_rule_for_the_number_of_buckets(rule: str) -> None:
    inner = defences.create(rule, {})
    assert [Bucketing(size=3, rule=rule).most(n) for n in range(1, 30)] == [
        inner.most(-(-n // 3)) for n in range(1, 30)
    ]


def test_a_rule_with_a_memory_keeps_it() -> None:
    rows, start = uploads(6)
    found = merge(Bucketing(rule="centered-clip"), rows, start)
    torch.testing.assert_close(found.state["v"], found.row - start, rtol=1e-4, atol=1e-5)
    again = merge(Bucketing(rule="centered-clip"), rows, start, state=found.state)
    assert not torch.equal(again.row, found.row)


def test_larger_buckets_differ_less() -> None:
    """Why it helps: honest clients look less like outliers."""
    rows, start = uploads(40, spread=5)
    one, many = (merge(Bucketing(size=s, rule="krum"), rows, start, f=3).row for s in (1, 4))
    mean = rows.mean(0)
    assert float((many - mean).norm()) < 0.8 * float((one - mean).norm())


def test_trimming_uses_f_of_the_buckets() -> None:
    rows, start = uploads(8)
    found = merge(Bucketing(size=2, rule="trimmed-mean"), rows, start, f=1, seed=3)
    at = torch.randperm(8, generator=torch.Generator().manual_seed(3)).split(2)
    means = torch.stack([rows[bucket].double().mean(0) for bucket in at]).float()
    torch.testing.assert_close(found.row, merge(TrimmedMean(), means, start, f=1).row)
