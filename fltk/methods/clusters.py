"""Averaging per cluster, shared by every method that keeps several models and a choice per client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fltk.protocol.map import Map, spread
from fltk.protocol.messages import Upload
from fltk.protocol.server import Server
from fltk.protocol.task import Task


def cluster_means(
    held: Mapping[str, Tensor], choice: Sequence[int], uploads: Sequence[Upload], server: Server
) -> tuple[Tensor, Tensor]:
    """FedAvg within each cluster: (models (M, P), rows (M, N)).

    held: the server's tensors.  `choice` is the cluster of each upload; `rows` are the weights with which clients
    entered each model. A cluster that no client chose, or of which a defence trusts no client, keeps its model and its
    row, bit for bit.
    """
    models, rows = held["models"].clone(), held["rows"].clone()
    for m in sorted(set(choice)):
        members = [u for u, c in zip(uploads, choice, strict=True) if c == m]
        ids = [u.client for u in members]
        model, p = server.average([u.w for u in members], server.weights(ids), ids, held["models"][m], f"model{m}")
        if bool(p.any()):
            models[m], rows[m] = model, spread(p, members, server.task)
    return models, rows


def cluster_map(rows: Tensor, choice: Tensor, kind: str, task: Task) -> Map | None:
    """The collaboration map (N, N) of clients that start from the model of their cluster.

    None before any client took part. A client whose cluster has never been averaged starts from that initial
    model, to which nobody contributed: its own column counts.
    """
    if not bool(rows.any()):
        return None
    full = rows[choice]
    empty = ~full.any(1)
    full[empty] = torch.eye(task.n_clients, dtype=full.dtype)[empty]
    return Map(kind, {"all": full}, task.layout)
