"""The networks, and their seeded initialisation.

Networks are built without weights (on torch's meta device) and initialised from a named generator, because
constructing them the usual way would read the global random state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fltk import catalogue
from fltk.errors import UsageError
from fltk.models.layout import NORMS, Layout, module_of
from fltk.names import RECURRENT

UNIFORM = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # uniform within 1/sqrt(fan-in) is torch's default for these


def mlp(shape: Sequence[int], n_classes: int, hidden: Sequence[int] = (100,)) -> nn.Sequential:
    """Multi-layer perceptron; 784-100-10 (79,510 parameters) on MNIST shapes."""
    sizes = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_classes))


def cnn(shape: Sequence[int], n_classes: int) -> nn.Sequential:
    """FedAvg's network (McMahan et al. 2017) without padding: 582,026 parameters on MNIST shapes."""
    channels, side = _image("cnn", shape, 16)
    flat = 64 * (((side - 4) // 2 - 4) // 2) ** 2
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(flat, 512), nn.ReLU(), nn.Linear(512, n_classes)),
    )


def lenet5(shape: Sequence[int], n_classes: int) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling: 6 and 16 filters, 120 and 84 units."""
    channels, side = _image("lenet5", shape, 16)
    flat = 16 * (((side - 4) // 2 - 4) // 2) ** 2
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(
            nn.Flatten(),
            nn.Linear(flat, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, n_classes),
        ),
    )


def cnn1d(shape: Sequence[int], n_classes: int) -> nn.Sequential:
    """Two temporal convolutions and 128 units, for windows of several channels (channels, time)."""
    if len(shape) != 2 or shape[1] < 64:
        raise UsageError(f"--model cnn1d takes time series of 64 samples or more, not shape {tuple(shape)}; use mlp")
    flat = 64 * (((shape[1] - 8) // 4 - 8) // 4)
    return nn.Sequential(
        *(nn.Conv1d(shape[0], 32, 9), nn.MaxPool1d(4), nn.ReLU()),
        *(nn.Conv1d(32, 64, 9), nn.MaxPool1d(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, n_classes)),
    )


def cnn_bn(shape: Sequence[int], n_classes: int) -> nn.Sequential:
    """Two convolutions with batch norm: 29,034 parameters on MNIST shapes."""
    channels, side = _image("cnn-bn", shape, 8)
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, n_classes)),
    )


class Block(nn.Module):
    """Basic residual block (He et al. 2016), post-activation; a 1x1 convolution where the shape changes."""

    def __init__(self, into: int, out: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.norm1 = _norm(out, batch_norm)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = _norm(out, batch_norm)
        changes = stride != 1 or into != out
        self.shortcut = nn.Conv2d(into, out, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()  # type: ignore[no-any-return]  # nn.Module calls are untyped


def resnet8(shape: Sequence[int], n_classes: int, batch_norm: bool = False) -> nn.Sequential:
    """ResNet-8: a stem and blocks of 16, 32 and 64 channels; GroupNorm (two groups) or batch norm."""
    channels, _ = _image("resnet8", shape, 4)
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, 1, 1, bias=False), _norm(16, batch_norm), nn.ReLU()),
        *(Block(16, 16, 1, batch_norm), Block(16, 32, 2, batch_norm), Block(32, 64, 2, batch_norm)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, n_classes)),
    )


EMBEDDING = 8  # numbers that stand for a token, as in LEAF


class Recurrent(nn.Module):
    """Token numbers (n, T) through an embedding and recurrent layers; the last state gives the logits (n, V)."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], vocabulary: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        sizes = [EMBEDDING, *hidden]
        self.layers = nn.ModuleList(cell(into, out, batch_first=True) for into, out in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        states = self.embedding(x.long())  # (n, T, 8)
        for layer in self.layers:
            states, _ = layer(states)
        return self.out(states[:, -1])  # type: ignore[no-any-return]  # nn.Module calls are untyped


def recurrent(name: str, shape: Sequence[int], vocabulary: int, hidden: Sequence[int]) -> Recurrent:
    """`lstm` or `gru` with one layer for each of the `hidden` sizes."""
    if len(shape) != 1 or not hidden:
        what = "a layer at least (--hidden 100)" if len(shape) == 1 else "sequences of tokens; use mlp"
        raise UsageError(f"--model {name} takes {what}")
    return Recurrent(nn.LSTM if name == "lstm" else nn.GRU, vocabulary, hidden)


def check_tokens(name: str, tokens: bool) -> None:
    """UsageError for a network of numbers on tokens, or of tokens on numbers."""
    if tokens and name not in RECURRENT:
        raise UsageError(f"--model {name} takes numbers, and the samples are sequences of tokens; use lstm or gru")
    if name in RECURRENT and not tokens:
        raise UsageError(f"--model {name} takes sequences of tokens, and the samples are numbers; use mlp")


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.GroupNorm(2, channels)


def _image(model: str, shape: Sequence[int], smallest: int) -> tuple[int, int]:
    """(channels, side) of a square image, or the line that says what to change."""
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < smallest:
        text = "x".join(map(str, shape))
        raise UsageError(
            f"--model {model} takes square images of {smallest}x{smallest} or more, not {text}; use mlp"
            + (" or resnet8" if len(shape) == 3 and model != "resnet8" else "")
        )
    return shape[0], shape[1]


def make(name: str, shape: Sequence[int], n_classes: int, hidden: Sequence[int] = (100,)) -> nn.Module:
    """The network `name` for inputs of `shape`, without weights (meta device)."""
    with torch.device("meta"):
        if name == "mlp":
            return mlp(shape, n_classes, hidden)
        if name == "cnn":
            return cnn(shape, n_classes)
        if name == "cnn-bn":
            return cnn_bn(shape, n_classes)
        if name == "lenet5":
            return lenet5(shape, n_classes)
        if name == "cnn1d":
            return cnn1d(shape, n_classes)
        if name in ("resnet8", "resnet8-bn"):
            return resnet8(shape, n_classes, batch_norm=name == "resnet8-bn")
        if name in RECURRENT:
            return recurrent(name, shape, n_classes, hidden)
        return own(name, shape, n_classes)


def own(name: str, shape: Sequence[int], n_classes: int) -> nn.Module:
    """A network of an installed package or of the user's own: NAME(shape, outputs)."""
    made = catalogue.find("model", name)(tuple(shape), n_classes)
    if not isinstance(made, nn.Module):
        raise UsageError(f"--model {name}: it gave {type(made).__name__}, not a torch.nn.Module")
    return made


def initial(model: nn.Module, layout: Layout, generator: torch.Generator) -> Tensor:
    """Seeded initial weights (P,) of any network of float parameters.

    Linear layers and convolutions are uniform within 1/sqrt(fan-in), torch's default, and normalisation layers begin as
    the identity. Any other module draws its weights itself, by its `reset_parameters`; parameters of a module that has
    none are uniform, too. `generator` is the only source: the global random state is left as it was. ValueError for a
    buffer that no `reset_parameters` fills.
    """
    flat = torch.zeros(layout.size)
    network = copy.deepcopy(model).to_empty(device="cpu")
    layout.bind(network, flat)  # what a module writes to its parameters, it writes to `flat`

    for e in layout.entries:
        values = e.view(flat)
        module, short = module_of(network, e.layer), e.name.rpartition(".")[2]
        if e.norm:
            values.fill_(1.0 if short in ("weight", "running_var") else 0.0)
        elif type(module) in UNIFORM:
            weight = module.weight
            assert isinstance(weight, Tensor)
            _draw(values, weight[0].numel(), generator)
        elif _reset_of(module) is None:
            if not e.trainable:
                raise ValueError(f"buffer {e.name} has no initial value: give {type(module).__name__} reset_parameters")
            _draw(values, values[0].numel() if values.dim() > 1 else values.numel(), generator)

    _reset(network, generator)
    return flat


def _draw(values: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Fills a tensor with uniform numbers within 1/sqrt(fan-in)."""
    bound = 1 / math.sqrt(fan_in)
    values.copy_(torch.empty(values.shape).uniform_(-bound, bound, generator=generator))


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    """A module's own way to draw its weights, where it has one."""
    for name in ("reset_parameters", "_reset_parameters"):  # the latter is that of MultiheadAttention and Transformer
        found: Callable[[], None] | None = getattr(module, name, None)
        if found is not None:
            return found
    return None


def _reset(network: nn.Module, generator: torch.Generator) -> None:
    """Lets modules with rules of their own draw their weights: a module after the modules that it consists of."""
    own = []
    for module in reversed(list(network.modules())):
        reset = _reset_of(module)
        if reset is not None and type(module) not in UNIFORM and not isinstance(module, NORMS):
            own.append(reset)
    if not own:
        return

    # `reset_parameters` takes no generator: it reads the global one, which is set for it and put back
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for reset in own:
            reset()
