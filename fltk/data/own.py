"""Data sets that a user gives from Python: named as what they are, and known by the fingerprint of their arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fltk import catalogue, own_data
from fltk.data.dataset import Dataset, Ints, create, stream
from fltk.data.subset import stratified
from fltk.errors import UsageError
from fltk.names import DATASETS, IMPORTED, OWN


def own(
    name: str,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    is_test: npt.ArrayLike | None = None,
    owner: npt.ArrayLike | None = None,
    owner_names: Sequence[str] = (),
) -> Dataset:
    """A data set called own:NAME of samples x (n, C, H, W) or (n, C, T) and class labels y (n,), 0 or above.

    is_test (n,): members of an official test set.  owner (n,): the natural client of each sample, a number into
    owner_names. x is used as it is, so that it should be scaled. UsageError for arrays that do not fit together.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,50}", name):
        raise UsageError(f"own data: a name consists of letters, digits, points and hyphens, not {name!r}")
    samples, labels = np.asarray(x, np.float32), np.asarray(y)
    if samples.ndim not in (3, 4) or not len(samples):
        raise UsageError(f"own data {name}: x must be (n, C, H, W) or (n, C, T), not {samples.shape}")
    if labels.shape != samples.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UsageError(f"own data {name}: y must hold one integer class label per sample, 0 or above")

    names = tuple(map(str, classes if classes is not None else range(int(labels.max()) + 1)))
    if labels.max() >= len(names):
        raise UsageError(f"own data {name}: label {labels.max()} has no name among {len(names)} classes")
    return create(
        OWN + name,
        samples,
        labels.astype(np.int64),
        names,
        is_test=None if is_test is None else np.asarray(is_test, np.bool_),
        owner=None if owner is None else np.asarray(owner, np.int64),
        owner_kind=None if owner is None else "owner",
        owner_names=tuple(owner_names),
    )


def named(dataset: Dataset) -> str:
    """What a configuration calls the data: the name of a source of fltk, or one that begins with own:."""
    known = dataset.name in (*DATASETS, IMPORTED) or dataset.name.startswith(OWN)
    known = known or catalogue.is_own(dataset.name) or own_data.is_data(dataset.name)
    return dataset.name if known else OWN + dataset.name


def given(name: str, among: Sequence[Dataset]) -> Dataset:
    """The data set of that name; UsageError where it has to be given again."""
    for dataset in among:
        if dataset.name == name:
            return dataset
    raise UsageError(f"{name} was given from Python and is stored nowhere: give it again with Place(own=(data,))")


def subset_of(dataset: Dataset, size: int, seed: int) -> Dataset:
    """`size` samples (0: all), stratified by owner, official split and label, as for data that fltk loads."""
    if not 0 < size < len(dataset):
        return dataset
    keys = [key.astype(np.int64) for key in (dataset.owner, dataset.is_test, dataset.y) if key is not None]
    keep = stratified(size, keys, stream(seed, "data/subset"))
    return create(
        dataset.name,
        dataset.x[keep],
        dataset.y[keep],
        dataset.classes,
        is_test=None if dataset.is_test is None else dataset.is_test[keep],
        owner=_taken(dataset.owner, keep),
        owner_kind=dataset.owner_kind,
        owner_names=dataset.owner_names,
        session=_taken(dataset.session, keep),
        group=_taken(dataset.group, keep),
        split=_taken(dataset.split, keep),
        raw=dataset.raw,
        objective=dataset.objective,
        targets=None if dataset.targets is None else dataset.targets[keep],
    )


def _taken(values: Ints | None, keep: Ints) -> Ints | None:
    return None if values is None else values[keep]
