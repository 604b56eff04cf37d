"""Build the models that projects name, and turn their parameters into vectors and back.

Built in: logistic regression and a small MLP for tables; McMahan's 2NN and CNN (McMahan et al.
2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", section 3);
LeNet-5 (LeCun et al. 1998, figure 2, with ReLU and max pooling as used today). Anything else is
named as `module:function` and has to be allowed, since building it runs the sponsor's code.

Convolutional models are built in the channels-last layout, which trains faster on CPUs; a
parameter vector always follows the logical order of the dimensions, whatever the layout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.code import call, is_code_name
from trainer.errors import CodeError, ModelError

__all__ = ["BUILT_IN", "MAX_DIMENSION", "build", "dimension", "flatten", "load_flat"]

MAX_DIMENSION = 1 << 26
"""Parameters that a model may have: a project's description is read from strangers."""

MAX_OPTION = 1 << 24


def logistic(features: int = 64, classes: int = 10) -> nn.Module:
    """Build multinomial logistic regression: features x classes + classes parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def mlp(features: int = 64, hidden: int = 32, classes: int = 10) -> nn.Module:
    """Build a network for tables with one hidden layer of ReLU units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def two_nn(features: int = 784, hidden: int = 200, classes: int = 10) -> nn.Module:
    """Build McMahan's 2NN: two hidden layers of 200 ReLU units, 199,210 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def cnn(channels: int = 1, size: int = 28, classes: int = 10) -> nn.Module:
    """Build McMahan's CNN: two 5x5 convolutions of 32 and 64 channels, 1,663,370 parameters.

    Images are channels x size x size; both convolutions keep the size and each pooling halves it.
    """
    if size < 4:
        raise ModelError(f"model 'cnn' needs images of at least 4 pixels a side, not size={size}")
    network = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (size // 4) ** 2, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
    return _channels_last(network)


def lenet5(channels: int = 1, size: int = 28, classes: int = 10) -> nn.Module:
    """Build LeNet-5 for images padded by two pixels, as MNIST's are: 61,706 parameters."""
    if size < 12:
        raise ModelError(
            f"model 'lenet5' needs images of at least 12 pixels a side, not size={size}"
        )
    network = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * ((size // 2 - 4) // 2) ** 2, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
    return _channels_last(network)


BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "2nn": two_nn,
    "cnn": cnn,
    "lenet5": lenet5,
}


def build(
    name: str,
    options: Mapping[str, int | float | str],
    seed: int,
    *,
    allow_code: bool = False,
) -> nn.Module:
    """Build the model `name` with parameters drawn from `seed`.

    The same arguments give the same bytes, and the global random state stays as it was. Raises
    ModelError for a model that does not exist, wrong options, more than MAX_DIMENSION parameters,
    buffers, or parameters that are not float32; CodeError for `module:function` that may not be
    called (`allow_code`) or that fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in BUILT_IN:
            module = _build_built_in(name, options)
        else:
            module = _build_code(name, options, allow_code)
    _check_parameters(name, module)
    return module


def dimension(module: nn.Module) -> int:
    """Count the parameters of a model, d."""
    return sum(parameter.numel() for parameter in module.parameters())


def flatten(module: nn.Module) -> NDArray[np.float32]:
    """Return the parameters as one vector, f32[d], in the order of `module.parameters()`."""
    parts = [parameter.detach().reshape(-1) for parameter in module.parameters()]
    flat: NDArray[np.float32] = torch.cat(parts).numpy()
    return flat


def load_flat(module: nn.Module, flat: NDArray[np.float32]) -> None:
    """Set the parameters of a model from the vector `flat`, f32[d], as `flatten` orders them."""
    d = dimension(module)
    if flat.shape != (d,):
        raise ModelError(
            f"the model has {d:,} parameters but the vector has shape {flat.shape}; "
            "is the project's model built with the project's own options?"
        )
    vector = torch.from_numpy(np.array(flat, dtype=np.float32))
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            end = start + parameter.numel()
            parameter.copy_(vector[start:end].view(parameter.shape))
            start = end


def _channels_last(network: nn.Module) -> nn.Module:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _build_built_in(name: str, options: Mapping[str, int | float | str]) -> nn.Module:
    factory = BUILT_IN[name]
    known = list(inspect.signature(factory).parameters)
    for option, value in options.items():
        if option not in known:
            raise ModelError(f"model {name!r} has no option {option!r}; it has {', '.join(known)}")
        if type(value) is not int or not 1 <= value <= MAX_OPTION:
            raise ModelError(
                f"option {option} of model {name!r} must be a whole number "
                f"from 1 to {MAX_OPTION:,}, not {value!r}"
            )
    # Meta tensors have no storage, so a description that asks for terabytes is refused by count.
    with torch.device("meta"):
        _check_dimension(name, dimension(factory(**options)))
    return factory(**options)


def _build_code(name: str, options: Mapping[str, int | float | str], allow_code: bool) -> nn.Module:
    if not is_code_name(name):
        raise ModelError(
            f"no model {name!r}; built in are {', '.join(BUILT_IN)}, "
            "others are named package.module:function"
        )
    if not allow_code:
        raise CodeError(
            f"model {name!r} runs code that the project names; read that code, then allow it with "
            "--allow-code (allow_code=True)"
        )
    module = call(name, options)
    if not isinstance(module, nn.Module):
        raise CodeError(f"{name} returned {type(module).__name__}, not a torch.nn.Module")
    return module


def _check_dimension(name: str, d: int) -> None:
    if not 1 <= d <= MAX_DIMENSION:
        raise ModelError(
            f"model {name!r} has {d:,} parameters; a project's model has 1 to {MAX_DIMENSION:,}"
        )


def _check_parameters(name: str, module: nn.Module) -> None:
    _check_dimension(name, dimension(module))
    buffers = [buffer for buffer, _ in module.named_buffers()]
    if buffers:
        raise ModelError(
            f"model {name!r} keeps {', '.join(buffers)} outside its parameters; only parameters "
            "are aggregated, so use layers without running statistics (GroupNorm for BatchNorm)"
        )
    for parameter_name, parameter in module.named_parameters():
        _check_float32(name, parameter_name, parameter)


def _check_float32(name: str, parameter_name: str, parameter: Tensor) -> None:
    if parameter.dtype != torch.float32:
        raise ModelError(
            f"parameter {parameter_name} of model {name!r} is {parameter.dtype}; "
            "convert the model with .float()"
        )
