"""Channel filters by name: what `--channel` does to the models that clients send."""

from __future__ import annotations

from fltk.channel.base import Channel, ChannelFilter, Packed
from fltk.channel.grad_drop import GradDrop
from fltk.channel.qsgd import QSGD
from fltk.errors import UsageError
from fltk.names import CHANNELS

FILTERS: dict[str, type[ChannelFilter]] = {"grad-drop": GradDrop, "qsgd": QSGD}
assert tuple(FILTERS) == CHANNELS


def parse(text: str) -> Channel:
    """The filters of `--channel`, such as `grad-drop:0.02` or `grad-drop:0.02,qsgd:8`, in the order of their use."""
    filters = []
    for word in text.split(","):
        name, _, value = word.strip().partition(":")
        if name not in FILTERS:
            known = " and ".join(FILTERS)
            raise UsageError(f"--channel: there is no filter {name!r}; filters are {known}, with their value after :")
        filters.append(FILTERS[name].parse(value))
    return Channel(tuple(filters))


__all__ = ["Channel", "ChannelFilter", "Packed", "parse"]
