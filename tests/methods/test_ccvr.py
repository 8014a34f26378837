"""CCVR: class statistics of all clients together, and a head trained on what is drawn from them."""

from __future__ import annotations

import torch
from toys import federation, final, job, play, server

from fltk.methods.ccvr import class_statistics, merged
from fltk.protocol.messages import Down


def test_merged_statistics_are_those_of_the_pooled_data() -> None:
    made = job("ccvr")
    at, w = server(made, 0), made.task().w0
    clients = made.federation.clients
    sent = [class_statistics(Down(w), client, at.trainer).sent for client in clients]
    mean, covariance, counts = merged(sent)

    features = torch.cat([at.trainer.features(w, client.train) for client in clients]).double()
    labels = torch.cat([client.train.y for client in clients])
    for c in range(4):
        mine = features[labels == c]
        assert int(counts[c]) == len(mine)
        torch.testing.assert_close(mean[c], mine.mean(0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(covariance[c], torch.cov(mine.t()), rtol=1e-4, atol=1e-5)
        assert float(torch.linalg.eigvalsh(covariance[c]).min()) > -1e-6


def test_only_the_output_layer_changes_and_only_at_the_end() -> None:
    made, plain = job("ccvr", rounds=3), job("fedavg", rounds=3)
    layout = made.task().layout
    ours, theirs = play(made), play(plain)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert mine.digest == other.digest
    mine, other = ours[-1].state.server["w"], theirs[-1].state.server["w"]
    assert torch.equal(layout.take(mine, "base"), layout.take(other, "base"))
    assert not torch.equal(layout.take(mine, "head"), layout.take(other, "head"))


def test_without_epochs_it_is_fedavg() -> None:
    assert torch.equal(final("ccvr", {"calibrate_epochs": 0}), final("fedavg"))


def test_the_statistics_are_counted_as_bytes_of_the_last_round() -> None:
    first, last = (done.scalars["bytes_up"] for done in play(job("ccvr")))
    classes, features, clients = 4, 6, 4
    statistics = classes * (8 + 4 * features + 4 * features * features)
    assert last - first == statistics * clients


def test_a_class_of_one_sample_is_left_out() -> None:
    made = job("ccvr", data=federation(sizes=(1, 1, 1, 1)), batch_size=1)
    assert torch.isfinite(play(made)[-1].state.server["w"]).all()
