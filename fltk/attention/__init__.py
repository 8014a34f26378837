"""Attention over clients: each client is a token, one map says who learns from whom.

Usable on any matrix of flat models (K, P), without the rest of fltk:

    from fltk.attention import attend
    a = attend(models, center=start, samples=n).map     # (K, K), rows on the simplex
    mixed = a @ models.double()                         # (K, P), every client's own next model

From class tables instead of models: `attend_by_evidence(evidence(tables, counts), Options(tau=0.15))`.

`Options` holds every switch: `attend(models, Options(score="relgap", sparse="topk"), center=start)`. Models that do
not fit into memory are mixed from file to file by `fltk.attention.stream`.
"""

from fltk.attention.attend import Attention, Options, attend, weigh
from fltk.attention.prototypes import attend_by_evidence, evidence

__all__ = ["Attention", "Options", "attend", "attend_by_evidence", "evidence", "weigh"]
