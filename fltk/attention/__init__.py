"""Attention over clients: each client is a token, one map says who learns from whom.

Usable on any matrix of flat models (K, P), without the rest of fltk:

    from fltk.attention import attend
    a = attend(models, center=start, samples=n).map     # (K, K), rows on the simplex
    mixed = a @ models.double()                         # (K, P), every client's own next model
"""

from fltk.attention.attend import Attention, attend

__all__ = ["Attention", "attend"]
