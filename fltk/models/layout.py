"""A model as one flat float32 vector with named parts.

All trainable parameters come first, in module order, then the float buffers (running statistics): so that the
trainable part is one contiguous run and an SGD step can be one operation. Integer buffers
(`num_batches_tracked`) are counters of the process that trains, are not averaged and have no column here.

Convolution kernels are stored in the order (out, height, width, in), i.e. channels last: averaging does not
care, and the convolutions of a CPU run several times faster on views in this order than on the default one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fltk.errors import UsageError
from fltk.models.parts import ALL, BATCH_NORM, NONE, NORM, Columns, evaluated

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
ROOT = "self"  # the layer of parameters that belong to the network itself and to none of its modules


@dataclass(frozen=True)
class Entry:
    """One tensor of the model: where it lies in the flat vector and what it is."""

    name: str
    layer: str
    shape: tuple[int, ...]
    start: int
    trainable: bool
    norm: bool
    batch_norm: bool
    recurrent: bool = False  # of a module whose kernels torch.func.vmap cannot run

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

# Parts that depend on what a tensor is, not on where its layer stands.
KINDS: dict[str, Callable[[Entry], bool]] = {
    ALL: lambda e: True,
    NONE: lambda e: False,
    NORM: lambda e: e.norm,
    BATCH_NORM: lambda e: e.batch_norm,
}


@dataclass(frozen=True)
class Layout:
    """Names for the columns of a flat model (P,), and the parts that methods share or keep.

    Parts: `all`, `none`, `head` (the last linear layer), `base` (the rest), `norm` (normalisation layers with
    their buffers), `batch-norm` (those of them that normalise over the batch), `top:k` and `below:k` (the last k layers
    that have weights, and what lies below them), a layer's name, or a set expression of these, see `Part`.
    """

    entries: tuple[Entry, ...]

    @staticmethod
    def of(model: nn.Module) -> Layout:
        """The layout of `model`; normalisation is found by module type, never by name."""
        tensors: list[tuple[str, nn.Module, str, Tensor]] = []
        buffers: list[tuple[str, nn.Module, str, Tensor]] = []
        for path, module in model.named_modules():
            for short, parameter in module.named_parameters(recurse=False):
                tensors.append((path, module, short, parameter))
            for short, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    buffers.append((path, module, short, buffer))

        trainable, start = len(tensors), 0
        entries = []
        for k, (path, module, short, tensor) in enumerate(tensors + buffers):
            entry = Entry(
                name=f"{path}.{short}" if path else short,
                layer=path or ROOT,
                shape=tuple(tensor.shape),
                start=start,
                trainable=k < trainable,
                norm=isinstance(module, NORMS),
                batch_norm=isinstance(module, nn.modules.batchnorm._BatchNorm),
                recurrent=isinstance(module, nn.RNNBase),
            )
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
        if part not in self._known_ranges:
            self._known_ranges[part] = self._merged(evaluated(part, self._named))
        return self._known_ranges[part]

    @cached_property
    def _known_ranges(self) -> dict[str, Ranges]:
        """By part: every client of every round asks for the same few."""
        return {}

    def _merged(self, chosen: frozenset[Entry]) -> Ranges:
        """The column ranges of some tensors."""
        merged: list[tuple[int, int]] = []
        for e in self.entries:
            if e not in chosen:
                continue
            if merged and merged[-1][1] == e.start:
                merged[-1] = (merged[-1][0], e.stop)
            else:
                merged.append((e.start, e.stop))
        return tuple(merged)

    def _named(self, name: str) -> frozenset[Entry]:
        """The tensors of a part that is a single name."""
        kind, _, count = name.partition(":")
        if name in KINDS:
            return self._where(KINDS[name])
        if kind in ("head", "base", "top", "below"):
            top = self._top(int(count) if count else 1)
            inside = kind in ("head", "top")
            return self._where(lambda e: (e.layer in top) == inside)
        if name in self.layers:
            return self._where(lambda e: e.layer == name)
        raise ValueError(f"no part {name!r} in this model; layers: {', '.join(self.layers)}")

    def _where(self, holds: Callable[[Entry], bool]) -> frozenset[Entry]:
        return frozenset(filter(holds, self.entries))

    def _top(self, count: int) -> frozenset[str]:
        """The last `count` layers with weights and every normalisation layer after the first of them."""
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
        return self._fill(row.clone(), part, values)

    def _fill(self, row: Tensor, part: str, values: Tensor) -> Tensor:
        """`row` (P,), whose columns of `part` have been overwritten with `values` (width,)."""
        at = 0
        for start, stop in self.ranges(part):
            row[start:stop] = values[at : at + stop - start]
            at += stop - start
        return row

    def join(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """A whole row (P,) from the columns (width,) of parts that make up the model; a lone part is the row itself."""
        filled = {part: values for part, values in pieces.items() if values.numel()}
        if len(filled) == 1:
            [row] = filled.values()
        else:
            row = next(iter(filled.values())).new_empty(self.size)
            for part, values in filled.items():
                self._fill(row, part, values)
        return row

    def check(self, columns: Columns, method: str) -> None:
        """UsageError unless every column of the model is in exactly one part of `columns`."""
        times: Counter[Entry] = Counter()
        for part in (columns.travels, columns.private, columns.frozen):
            times.update(evaluated(part, self._named))

        for e in self.entries:
            if times[e] != 1:
                raise UsageError(
                    f"{method}.columns: {e.name} is in {times[e]} of the parts that travel ({columns.travels}), are "
                    f"private ({columns.private}) and are frozen ({columns.frozen}); it has to be in one"
                )

    def bind(self, model: nn.Module, flat: Tensor) -> list[nn.Parameter]:
        """Make every parameter and float buffer of `model` a view into `flat` (P,); gives the parameters."""
        parameters = []
        for e in self.entries:
            module, short = module_of(model, e.layer), e.name.rpartition(".")[2]
            if e.trainable:
                parameter = nn.Parameter(e.view(flat))
                setattr(module, short, parameter)
                parameters.append(parameter)
            else:
                setattr(module, short, e.view(flat))
        return parameters


def module_of(model: nn.Module, layer: str) -> nn.Module:
    """The module that a layer's name stands for."""
    return model if layer == ROOT else model.get_submodule(layer)
