"""The usual mistakes in what a network is shown and in how it is read, each with the settings that mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpe_tasks.config.model import ModelConfig

_ALIKE = 1e-3

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Mistake:
    """What may be wrong; nothing where all is as configured.

    Attributes:
        when: In words that follow "when".
        settings: What mends it, as `--set` takes it; empty where no setting does.
        cost: How much must be wrong for it, in halves of a simple mistake: of two that explain as much, the smaller
            one is meant.
        parts: Mistakes that it consists of.
    """

    when: str = ""
    settings: tuple[str, ...] = ()
    cost: int = 0
    parts: int = 1

    def __and__(self, other: Mistake) -> Mistake:
        """Both at once."""
        when = " and ".join(part for part in (self.when, other.when) if part)
        return Mistake(when, self.settings + other.settings, self.cost + other.cost, self.parts + other.parts)


AS_CONFIGURED = Mistake(parts=0)


@dataclass(frozen=True)
class Scaling:
    """What values networks are fed with.

    Attributes:
        mean: In red, green, blue.
        std: In red, green, blue.
    """

    when: str
    mean: Three
    std: Three


_ONE: Three = (1.0, 1.0, 1.0)
_255THS: Three = (1 / 255, 1 / 255, 1 / 255)

SCALINGS = (
    Scaling("pixel values are 0 to 255", (0.0, 0.0, 0.0), _255THS),
    Scaling("pixel values are 0 to 1", (0.0, 0.0, 0.0), _ONE),
    Scaling("pixel values are −1 to 1", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Scaling("ImageNet's mean and std are used", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Scaling("Caffe's means are taken from values of 0 to 255", (123.68 / 255, 116.779 / 255, 103.939 / 255), _255THS),
    Scaling("pixel values are −0.5 to 0.5", (128 / 255, 128 / 255, 128 / 255), (256 / 255, 256 / 255, 256 / 255)),
)


def input_mistakes(model: ModelConfig) -> Iterator[tuple[Mistake, ModelConfig]]:
    """Every usual way to show images to a network, the configured one first: a mistake, and the model without it.

    The channel order and the scaling of pixel values are varied together, since one often comes with the other.
    """
    tried: list[ModelConfig] = []
    for order in (model.channel_order, _other(model.channel_order)):
        turned = order != model.channel_order
        reorder = Mistake(f"the image is {order.upper()}", (f"model.channel_order={order}",), 2)
        of_order = reorder if turned else AS_CONFIGURED
        for mistake, mean, std in _scalings(model, turned=turned, order=order):
            varied = model.model_copy(update={"channel_order": order, "mean": mean, "std": std})
            if not any(_alike(varied, other) for other in tried):
                tried.append(varied)
                yield of_order & mistake, varied


def _scalings(model: ModelConfig, *, turned: bool, order: str) -> Iterator[tuple[Mistake, Three, Three]]:
    yield AS_CONFIGURED, model.mean, model.std
    if turned:
        # The numbers may have been given in the order of the colours that was believed to be the network's.
        mean, std = _reversed(model.mean), _reversed(model.std)
        yield Mistake("mean and std are turned with it", _settings(mean, std), 1), mean, std
    for scaling in SCALINGS:
        mean, std = scaling.mean, scaling.std
        if order == "bgr":
            mean, std = _reversed(mean), _reversed(std)
        yield Mistake(scaling.when, _settings(mean, std), 2), mean, std


def _settings(mean: Three, std: Three) -> tuple[str, ...]:
    return tuple(
        f"model.{name}=[{','.join(f'{v:.6g}' for v in values)}]" for name, values in (("mean", mean), ("std", std))
    )


def _other(order: str) -> str:
    return "rgb" if order == "bgr" else "bgr"


def _reversed(values: Three) -> Three:
    return values[2], values[1], values[0]


def _alike(a: ModelConfig, b: ModelConfig) -> bool:
    """Whether two models see the same, to within what no network tells apart."""
    if a.channel_order != b.channel_order:
        return False
    apart = (abs(x - y) / y for x, y in zip(a.std, b.std, strict=True))
    moved = (abs(x - y) / s for x, y, s in zip(a.mean, b.mean, b.std, strict=True))
    return max(*apart, *moved) < _ALIKE
