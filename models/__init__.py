"""Provide target networks by name (`build`, `load`, `save`) and MI networks (`models.mi`).

Importing this package does not import torch, so the command line can offer `ARCHITECTURES` without
waiting for it. `common.files` reads and writes the files.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from common import memory
from common.errors import InputError
from models.normalisation import Normalisation, agreed, checked

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from models.targets import Target

BOTTLENECK = {
    **{"width": 512, "layers": 3, "narrow": 3, "bottleneck": 256},
    **{"noise": "learned", "decoder": "linear"},
}
PREACT = {"depths": (2, 2, 2, 2), "width": 64, "last_norm": "bn"}
# name: (module, class, arguments). `build` can change those that the class lists as OPTIONS:
# "width", the channels of the first stage, and whatever else a class offers.
ARCHITECTURES: dict[str, tuple[str, str, dict]] = {
    "resnet18": ("models.resnet", "ResNet", {"depths": (2, 2, 2, 2), "width": 64}),
    "resnet34": ("models.resnet", "ResNet", {"depths": (3, 4, 6, 3), "width": 64}),
    "resnet50": (
        "models.resnet",
        "ResNet",
        {"depths": (3, 4, 6, 3), "width": 64, "bottleneck": True},
    ),
    # Rice et al. 2020, AWP, MAIR; the second as in Fast AT (Wong et al. 2020), whose files look the
    # same: models.preactresnet says what differs.
    "preactresnet18": ("models.preactresnet", "PreActResNet", PREACT | {"activated": True}),
    "preactresnet18-fast": ("models.preactresnet", "PreActResNet", PREACT | {"activated": False}),
    "wrn28-10": ("models.wideresnet", "WideResNet", {"depth": 28, "width": 160}),
    "wrn34-10": ("models.wideresnet", "WideResNet", {"depth": 34, "width": 160}),
    "wrn34-20": ("models.wideresnet", "WideResNet", {"depth": 34, "width": 320}),
    "wrn70-16": ("models.wideresnet", "WideResNet", {"depth": 70, "width": 256}),
    # With SiLU, as published by DeepMind.
    "preactresnet18-silu": ("models.deepmind", "SiluPreActResNet", {"width": 64}),
    "wrn28-10-silu": ("models.deepmind", "SiluWideResNet", {"depth": 28, "width": 160}),
    "wrn34-20-silu": ("models.deepmind", "SiluWideResNet", {"depth": 34, "width": 320}),
    "wrn70-16-silu": ("models.deepmind", "SiluWideResNet", {"depth": 70, "width": 256}),
    "vgg16": ("models.vgg", "VGG", {"depths": (2, 2, 3, 3, 3), "width": 64}),
    "vgg19": ("models.vgg", "VGG", {"depths": (2, 2, 4, 4, 4), "width": 64}),
    # An encoder and a classifier on its codes, an MLP or a linear layer (Zhu et al. 2020).
    "baseline-h": ("models.encoder", "BaselineH", {"width": 64, "size": (32, 32)}),
    "baseline-h-linear": ("models.encoder", "LinearH", {"width": 64, "size": (32, 32)}),
    "sperl-cnn": ("models.sperl_cnn", "SperlCNN", {"width": 32}),
    "vib-mlp": (
        "models.bottleneck",
        "Bottleneck",
        BOTTLENECK | {"side": 28, "convolutions": False},
    ),
    "vib-cnn": (
        "models.bottleneck",
        "Bottleneck",
        BOTTLENECK | {"side": 32, "convolutions": True},
    ),
    "allcnn": ("models.allcnn", "AllCNN", {"width": 96}),
}
# {other spelling: the name of an architecture}
SPELLINGS = {name.replace("wrn", "wrn-"): name for name in ARCHITECTURES if "wrn" in name}
PRETRAINED = Path(__file__).parent / "pretrained"
ENCODER = "encoder"  # what the file of an encoder names as its architecture
LOCAL_CONVS = (2, 3)  # how many convolutions a local network can have (models.mi.LocalNet)
# Which output of the target an estimator sees (models.mi.global_net): logits or a feature map.
REPRESENTATIONS = ("logits", "layer3", "layer4")
# {name in commands and files of earlier commits: the name of today}
EARLIER_REPRESENTATIONS = {"stage3": "layer3", "stage4": "layer4"}


def build(arch: str, num_classes: int = 10, **options) -> Target:
    """Build a freshly initialised target network: images in [0, 1], (N,3,H,W), to logits
    (N,num_classes).

    `arch` is a key of ARCHITECTURES. ``width`` is the channels of the first stage (None: the
    architecture's own, 64 or, for WideResNets, 160); the later stages have 2, 4, ... times as many.
    ``size``, height and width of the images (None: 32 and 32), is needed by baseline-h; networks
    that take any size leave it out of account. ``mean`` and ``std`` (None: 0 and 1), a number for
    each channel, normalise the images. Further options are those that the architecture's class
    lists; None is the architecture's own.

    The network has the attributes ``arch``, ``options`` (enough to build it again), ``about`` ({}:
    not trained yet) and ``tap_channels``; `models.targets.Target` documents them. Raises InputError
    on an unknown name or an impossible value.
    """
    network_class, arguments = _class_of(arch)
    mean, std = (options.pop(name, None) for name in ("mean", "std"))
    own = {option: arguments[option] for option in network_class.OPTIONS}
    known = {"num_classes": 2} | network_class.OPTIONS | {"size": 8}
    unknown = [option for option in options if option not in known]
    if unknown:
        names = ", ".join((*known, "mean", "std"))
        raise InputError(f"{arch} has no option {unknown[0]!r}; choose from: {names}")
    given = {name: value for name, value in options.items() if value is not None and name in own}
    sizes = {"num_classes": num_classes} | own | given
    for option, allowed in known.items():
        if option in sizes:
            _check_option(arch, option, sizes[option], allowed)
    if "size" in sizes:
        sizes["size"] = list(sizes["size"])
    if any(isinstance(own[name], int) and sizes[name] > own[name] for name in own):
        _check_memory(arch, lambda: network_class(**arguments | sizes))
    net = network_class(**arguments | sizes)
    net.arch, net.options, net.about = arch, sizes, {}
    net.normalise(0.0 if mean is None else mean, 1.0 if std is None else std)
    return net


def found(path: str | Path) -> Path:
    """Return the file that a path names, or the pretrained network of that name where there is no
    such file (models/pretrained/README.md lists them).
    """
    path = Path(path)
    pretrained = PRETRAINED / f"{path.name}.pth"
    named = str(path) == path.name and pretrained.is_file() and not path.exists()
    return pretrained if named else path


def load(
    path: str | Path,
    arch: str | None = None,
    device: str | torch.device = "cpu",
    normalisation: Normalisation | None = None,
) -> Target:
    """Load a target network from a file or by the name of a pretrained one, in eval mode on
    `device`, with the file's metadata in ``about``.

    A file written by `save` names its architecture, and `arch`, if given, must agree. A plain state
    dict, as most published checkpoints are, needs `arch`; width and number of classes come from the
    shapes of its tensors. `models.published` lists the layouts of other projects that are read.

    normalisation: the mean and the standard deviation of each channel with which the network was
    trained. A file that says its own must agree.

    Draws no random numbers from the caller's generator. Raises InputError when the file does not
    fit or cannot be read; where it fits no architecture, the error says which ones come nearest.
    """
    from common.files import (
        about_of,
        load_strictly,
        options_of,
        read_file,
        rebuilt,
        state_dict_of,
    )
    from models.published import unwrapped

    path = found(path)
    content = unwrapped(read_file(path))
    state = state_dict_of(content, path)
    said, options = content.get("arch"), options_of(content, state, path)
    arch = _agreed_arch(said, arch, path, state)
    try:
        network_class, _ = _class_of(arch)
        adapted = network_class.adapt(state)
        sizes = network_class.sizes_of(adapted) | options
        net = rebuilt(lambda: build(arch, **sizes), adapted)
        _normalise(net, content, normalisation)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        load_strictly(net, adapted, path, arch)
    except InputError as error:
        raise InputError(f"{error}; {_nearest(state)}") from None
    net.about = about_of(content, path)
    return net.to(device).eval()


def _agreed_arch(said, asked: str | None, path: Path, state: dict[str, Tensor]) -> str:
    """Return the architecture that a file says or that was asked for; they must agree."""
    if said == ENCODER:
        raise InputError(
            f"{path}: holds an encoder, which gives codes and no logits; train a classifier on it "
            f"with train_classifier.py --encoder {path}"
        )
    if isinstance(said, str) and (asked is None or said in ARCHITECTURES):
        if asked not in (None, said):
            raise InputError(
                f"{path}: holds a {said}, not a {asked}; give --arch {said} or another file"
            )
        return said
    if asked is None:
        raise InputError(
            f"{path}: does not name its architecture; "
            f"give --arch, one of: {', '.join(ARCHITECTURES)}; {_nearest(state)}"
        )
    return asked


def _normalise(net: Target, content: dict, asked: Normalisation | None) -> None:
    """Give a network the normalisation that its file says or that was asked for."""
    own = content.get("normalisation")
    if own is None and "mean" in net.options:
        own = net.options["mean"], net.options["std"]
    if asked and content.get("about") and not own:
        raise InputError("was trained here on [0,1] images; leave --normalize out")
    net.normalise(*agreed(asked, own and checked(*own), "the file"))


def save(model: Target, path: str | Path, **about) -> None:
    """Write a target network so that `load` can rebuild it, or an encoder for
    `models.encoder.load_encoder`, with `about`, plain facts about its training.

    The tensors are written as CPU tensors, and a killed process leaves either the old file or the
    new one. Raises ValueError where a fact is not made of None, bool, int, float, str, list, tuple
    and dict: `load` could not read it back.
    """
    from common.files import to_cpu, write_file

    for fact, value in about.items():
        if not _is_plain(value):
            raise ValueError(
                f"about {fact}: {value!r} is not a plain value "
                "(a number, a text, or a list or dict of them)"
            )
    state = to_cpu(model.state_dict())
    write_file(
        {"arch": model.arch, "options": dict(model.options), "state_dict": state, "about": about},
        path,
    )


def _nearest(state: dict[str, Tensor]) -> str:
    """Say which architectures a state dict fits or comes nearest to."""
    from models.nearest import nearest

    return nearest(state, {arch: _class_of(arch)[0] for arch in ARCHITECTURES}, build)


def _check_memory(arch: str, build: Callable[[], torch.nn.Module]) -> None:
    """Raise InputError where the network that `build` makes has more weights than the memory
    holds.
    """
    from common.sketches import sketched

    try:
        numbers = sum(weight.numel() for weight in sketched(build).parameters())
    except RuntimeError:  # more numbers than 64 bits can count
        numbers = 2**63
    if lacking := memory.lack(numbers):
        raise InputError(f"{arch}: {lacking}; give a smaller --width")


def _check_option(arch: str, option: str, value, allowed: int | tuple[str, ...]) -> None:
    """Raise InputError unless a value is one of the choices, or a whole number from a least one.

    The option "size" has two numbers.
    """
    if option == "size" and isinstance(allowed, int):
        pair = list(value) if isinstance(value, list | tuple) else [value]
        valid = len(pair) == 2 and all(type(n) is int and n >= allowed for n in pair)
        value, right = pair, f"choose two whole numbers from {allowed} up"
    elif isinstance(allowed, tuple):
        valid, right = value in allowed, f"choose one of: {', '.join(allowed)}"
    else:
        valid = type(value) is int and value >= allowed
        right = f"choose a whole number from {allowed} up"
    if not valid:
        raise InputError(f"{option} of {arch} is {value!r}; {right}")


def _class_of(arch: str) -> tuple[type[Target], dict]:
    """Return the class of an architecture and its arguments, except `num_classes`."""
    if arch not in ARCHITECTURES:
        raise InputError(f"unknown architecture {arch!r}; choose from: {', '.join(ARCHITECTURES)}")
    module, name, arguments = ARCHITECTURES[arch]
    return getattr(import_module(module), name), arguments


def _is_plain(value) -> bool:
    """Return whether `value` consists of plain values; numpy's float64 is a float, yet pickles as
    code.
    """
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (
        bool,
        int,
        float,
        str,
    )
