"""A model as one flat float32 vector with named parts.

All trainable parameters come first, in module order, then the float buffers (running statistics): so that the
trainable part is one contiguous run and an SGD step can be one operation. Integer buffers
(`num_batches_tracked`) are counters of the process that trains, are not averaged and have no column here.

Convolution kernels are stored in the order (out, height, width, in), i.e. channels last: averaging does not
care, and the convolutions of a CPU run several times faster on views in this order than on the default one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Entry:
    """One tensor of the model: where it lies in the flat vector and what it is."""

    name: str
    layer: str
    shape: tuple[int, ...]
    start: int
    trainable: bool
    norm: bool

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def stop(self) -> int:
        return self.start + self.size

    def view(self, flat: Tensor) -> Tensor:
        """The tensor in its own shape, as a view into `flat` (P,)."""
        piece = flat[self.start : self.stop]
        if len(self.shape) == 4:
            out, into, height, width = self.shape
            return piece.view(out, height, width, into).permute(0, 3, 1, 2)
        return piece.view(self.shape)

    def flatten(self, tensor: Tensor) -> Tensor:
        """The inverse of `view`, (size,), for example for a gradient."""
        return (tensor.permute(0, 2, 3, 1) if len(self.shape) == 4 else tensor).reshape(-1)


Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """Names for the columns of a flat model (P,), and the parts that methods share or keep.

    Parts: `all`, `none`, `head` (the last linear layer), `base` (the rest), `norm` (normalisation layers with
    their buffers), `top:k` and `below:k` (the last k layers that have weights, and what lies below them), or
    a layer's name.
    """

    entries: tuple[Entry, ...]

    @staticmethod
    def of(model: nn.Module) -> Layout:
        """The layout of `model`; normalisation is found by module type, never by name."""
        parameters, buffers = [], []
        for layer, module in model.named_modules():
            norm = isinstance(module, NORMS)
            for short, p in module.named_parameters(recurse=False):
                parameters.append((f"{layer}.{short}", layer, tuple(p.shape), True, norm))
            for short, b in module.named_buffers(recurse=False):
                if b.is_floating_point():
                    buffers.append((f"{layer}.{short}", layer, tuple(b.shape), False, norm))
        entries, start = [], 0
        for name, layer, shape, trainable, norm in parameters + buffers:
            entry = Entry(name, layer, shape, start, trainable, norm)
            entries.append(entry)
            start = entry.stop
        return Layout(tuple(entries))

    @property
    def size(self) -> int:
        """P, the length of a flat model."""
        return self.entries[-1].stop

    @property
    def trainable(self) -> int:
        """Number of trainable columns; they are the first ones."""
        return sum(e.size for e in self.entries if e.trainable)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that have weights, from the input to the output."""
        return tuple(dict.fromkeys(e.layer for e in self.entries))

    @property
    def weighted_layers(self) -> tuple[str, ...]:
        """Layers other than normalisation, from the input to the output; the last one is the head."""
        return tuple(dict.fromkeys(e.layer for e in self.entries if not e.norm))

    def ranges(self, part: str) -> Ranges:
        """Column ranges [start, stop) of a part, ascending, adjacent ones merged; ValueError if unknown."""
        merged: list[tuple[int, int]] = []
        for e in self._select(part):
            if merged and merged[-1][1] == e.start:
                merged[-1] = (merged[-1][0], e.stop)
            else:
                merged.append((e.start, e.stop))
        return tuple(merged)

    def _select(self, part: str) -> Iterator[Entry]:
        kind, _, count = part.partition(":")
        if part == "all" or part == "none":
            return iter(self.entries if part == "all" else ())
        if part == "norm":
            return (e for e in self.entries if e.norm)
        if kind in ("head", "base", "top", "below"):
            top = self._top(int(count) if count else 1)
            return (e for e in self.entries if (e.layer in top) == (kind in ("head", "top")))
        if part in self.layers:
            return (e for e in self.entries if e.layer == part)
        raise ValueError(f"no part {part!r} in this model; layers: {', '.join(self.layers)}")

    def _top(self, count: int) -> frozenset[str]:
        """The last `count` layers with weights and every normalisation layer behind the first of them."""
        weighted = self.weighted_layers
        if count <= 0:
            return frozenset()
        first = self.layers.index(weighted[max(0, len(weighted) - count)])
        return frozenset(self.layers if count >= len(weighted) else self.layers[first:])

    def width(self, part: str) -> int:
        """Number of columns of a part."""
        return sum(stop - start for start, stop in self.ranges(part))

    def take(self, rows: Tensor, part: str) -> Tensor:
        """The columns of a part: (..., P) -> (..., width). A view where the part is one run."""
        ranges = self.ranges(part)
        if len(ranges) == 1:
            return rows[..., ranges[0][0] : ranges[0][1]]
        return torch.cat([rows[..., a:b] for a, b in ranges], -1) if ranges else rows[..., :0]

    def put(self, row: Tensor, part: str, values: Tensor) -> Tensor:
        """A copy of `row` (P,) whose columns of `part` are `values` (width,)."""
        out, at = row.clone(), 0
        for start, stop in self.ranges(part):
            out[start:stop] = values[at : at + stop - start]
            at += stop - start
        return out

    def rest(self, part: str) -> str:
        """The name of a part's complement, for parts that a method may share."""
        kind, _, count = part.partition(":")
        other = {
            "all": "none",
            "none": "all",
            "head": "base",
            "base": "head",
            "top": "below",
            "below": "top",
        }.get(kind)
        if other is None:
            raise ValueError(f"part {part!r} cannot be shared; use all, none, head, base, top:k or below:k")
        return f"{other}:{count}" if count else other

    def join(self, part: str, inside: Tensor, outside: Tensor) -> Tensor:
        """A whole row (P,) from the columns of `part` and those of its complement."""
        if part == "all" or part == "none":
            return inside if part == "all" else outside
        row = inside.new_empty(self.size)
        for name, values in ((part, inside), (self.rest(part), outside)):
            at = 0
            for start, stop in self.ranges(name):
                row[start:stop] = values[at : at + stop - start]
                at += stop - start
        return row

    def bind(self, model: nn.Module, flat: Tensor) -> list[nn.Parameter]:
        """Make every parameter and float buffer of `model` a view into `flat` (P,); gives the parameters."""
        modules = dict(model.named_modules())
        for e in self.entries:
            module, short = modules[e.layer], e.name.rpartition(".")[2]
            if e.trainable:
                setattr(module, short, nn.Parameter(e.view(flat)))
            else:
                setattr(module, short, e.view(flat))
        return [getattr(modules[e.layer], e.name.rpartition(".")[2]) for e in self.entries if e.trainable]
