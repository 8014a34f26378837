"""Random streams by name."""

from __future__ import annotations

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from fltk.train.streams import VERSION, Streams


def test_a_seed_is_pinned() -> None:
    """The first eight bytes of SHA-256 of "version/root/purpose/round/client", little-endian, without the lowest bit.

    Stored digests and checkpoints rest on this number: whoever changes the derivation raises VERSION.
    """
    mark = hashlib.sha256(b"1/7/batches/3/11").digest()
    assert VERSION == 1
    assert Streams(7).seed("batches", 3, 11) == int.from_bytes(mark[:8], "little") >> 1 == 7304425552622853986


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_part_of_the_name_counts(root: int, round: int, client: int) -> None:
    names = [
        Streams(root).seed("batches", round, client),
        Streams(root + 1).seed("batches", round, client),
        Streams(root).seed("sampling", round, client),
        Streams(root).seed("batches", round + 1, client),
        Streams(root).seed("batches", round, client + 1),
    ]
    assert len(set(names)) == len(names)
    assert all(0 <= n < 2**63 for n in names)


def test_digits_do_not_run_together() -> None:
    assert Streams(1).seed("p", 1, 11) != Streams(1).seed("p", 11, 1)
    assert Streams(1).seed("p1") != Streams(1).seed("p", 1)


def test_generators_start_afresh_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    streams = Streams(5)
    a = torch.randn(4, generator=streams.generator("x", 1, 2))
    torch.randn(9, generator=streams.generator("y", 1, 2))
    assert torch.equal(a, torch.randn(4, generator=streams.generator("x", 1, 2)))
    assert not torch.equal(a, torch.randn(4, generator=streams.generator("x", 2, 1)))
    assert torch.equal(before, torch.get_rng_state())
