"""The ten digits in four looks, as natural domains of one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fltk.data.dataset import Floats, Ints, stream
from fltk.data.loaders import DIGITS, Raw, Request, digits, idx, idx_files, scaled, two_parts, usps_npz
from fltk.data.subset import stratified

MNIST = "MNIST/raw"
MNISTM_FILE = "Digits/mnistm_subset.npz"
Domain = tuple[Ints, Callable[[Ints], Floats]]


def digit_domains(request: Request) -> Raw:
    """Ten digits in four looks: MNIST, MNIST-M, USPS and scikit-learn's digits, all as grey 1x28x28.

    Grey is the cheapest form that invents nothing: MNIST-M gives its luminance (0.299 R + 0.587 G + 0.114 B),
    the small formats (16x16, 8x8) are enlarged bilinearly. Each domain is cut by seed, stratified by label,
    to the size of the smallest (1,797), so that no domain outweighs another. Official splits are pooled.
    """
    domains = {
        "mnist": _mnist_domain,
        "mnist-m": _mnistm_domain,
        "usps": _usps_domain,
        "digits": _sklearn_domain,
    }
    raws = [loader(request) for loader in domains.values()]
    size = min(len(y) for y, _ in raws)
    rng = stream(request.seed, "data/domains")
    kept = [stratified(size, [y], rng) for y, _ in raws]

    def take(keep: Ints) -> Floats:
        parts = [raws[d][1](kept[d][keep[keep // size == d] - d * size]) for d in range(len(raws))]
        return np.concatenate(parts)[:, None]

    y = np.concatenate([y[k] for (y, _), k in zip(raws, kept, strict=True)])
    owner = np.repeat(np.arange(len(raws), dtype=np.int64), size)
    return Raw(y, DIGITS, take, None, owner, "domain", tuple(domains))


def _mnist_domain(request: Request) -> Domain:
    raw = idx(MNIST, DIGITS)(replace(request, name="mnist", files=(idx_files(MNIST),)))
    return raw.y, lambda keep: raw.take(keep)[:, 0]


def _mnistm_domain(request: Request) -> Domain:
    xs, ys = two_parts(request.file(MNISTM_FILE))
    pixels = np.concatenate(xs).astype(np.uint8, copy=False)

    def take(keep: Ints) -> Floats:
        r, g, b = np.moveaxis(scaled(pixels[keep]), 3, 0)
        luminance: Floats = np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b
        return luminance

    return np.concatenate(ys).astype(np.int64), take


def _usps_domain(request: Request) -> Domain:
    x, y, _ = usps_npz(request)
    return y, lambda keep: enlarge(x[keep], 28)


def _sklearn_domain(request: Request) -> Domain:
    raw = digits(request)
    return raw.y, lambda keep: enlarge(raw.take(keep)[:, 0], 28)


def enlarge(x: Floats, side: int) -> Floats:
    """Bilinear (n, s, s) -> (n, side, side), pixel centres aligned, edges repeated.

    Written with element-wise steps: a matrix product would round differently from machine to machine.
    """
    old = x.shape[1]
    at = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    low = np.minimum(at.astype(np.int64), old - 2)
    right = (at - low).astype(np.float32)
    left = np.float32(1) - right
    rows = x[:, low] * left[:, None] + x[:, low + 1] * right[:, None]
    wide: Floats = rows[:, :, low] * left + rows[:, :, low + 1] * right
    return wide
