"""A smaller data set with the make-up of the whole one."""

from __future__ import annotations

import numpy as np

from fltk.data.dataset import Ints


def stratified(size: int, keys: list[Ints], rng: np.random.Generator) -> Ints:
    """`size` sorted positions of n, proportional over the groups that `keys` ((n,), coarsest first) span.

    Systematic sampling: the samples are put in random order inside groups, groups in key order, and every
    (n / size)-th is taken. So each group, and each union of neighbouring groups such as "all of one owner",
    gets its proportional share rounded up or down, and small groups are not lost in favour of large ones.
    """
    n = len(keys[0])
    if size >= n:
        return np.arange(n, dtype=np.int64)
    order = np.lexsort([rng.permutation(n), *reversed(keys)])
    picks = np.floor((np.arange(size) + rng.random()) * (n / size)).astype(np.int64)
    return np.sort(order[np.minimum(picks, n - 1)]).astype(np.int64)
