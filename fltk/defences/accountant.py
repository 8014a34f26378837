"""What a number of noisy releases costs in privacy: epsilon of the Poisson-sampled Gaussian mechanism.

    rdp   Renyi differential privacy. I. Mironov, K. Talwar, L. Zhang. "Renyi Differential Privacy of the Sampled
          Gaussian Mechanism." arXiv:1908.10530, 2019
    prv   privacy random variables, tighter. S. Gopi, Y. T. Lee, L. Wutschitz. "Numerical Composition of Differential
          Privacy." NeurIPS 2021. arXiv:2106.02848

Both come from the library opacus, the extra `privacy`.
"""

from __future__ import annotations

import importlib.util
import math
import warnings

from fltk.errors import FltkError

KINDS = ("rdp", "prv")


def available() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("opacus") is not None


def epsilon(noise: float, rate: float, rounds: int, delta: float, kind: str = "rdp") -> float:
    """epsilon of `rounds` releases of a sum with sensitivity 1 and normal noise of standard deviation `noise`.

    rate: every client takes part in a round with this probability, independently of the others.  delta: in (0, 1).
    Infinite without noise, 0 before the first round.

    Raises:
        FltkError: opacus is not installed.
    """
    if rounds == 0 or rate == 0:
        return 0.0
    if noise == 0:
        return math.inf
    if not available():
        raise FltkError("counting epsilon needs opacus: pip install 'fltk[privacy]'")
    with warnings.catch_warnings():  # about hooks of its trainer, the range of orders, and logarithms of 0
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant, RDPAccountant

        accountant = RDPAccountant() if kind == "rdp" else PRVAccountant()
        accountant.history = [(noise, rate, rounds)]
        return float(accountant.get_epsilon(delta))
