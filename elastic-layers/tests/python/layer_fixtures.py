#!/usr/bin/env python3
"""Writes elastic-layers/tests/fixtures/layers.json: layers of PyTorch with inputs, outputs and gradients.

    python3 elastic-layers/tests/python/layer_fixtures.py

needs PyTorch (the committed file is by version 1.13.0) and nothing else. The test fixtures.rs puts the parameters into
the part of a larger elastic layer that a view uses, and compares the view with the numbers here. Sizes are pairs of the
supernet's and the view's, several of them for a concatenation.
"""

import json
import pathlib
import struct

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(20)
torch.set_num_threads(1)
FILE = pathlib.Path(__file__).parent.parent / "fixtures" / "layers.json"


def decimal(value):
    """The shortest decimal that is read back as this 32-bit float."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("f", float(text)) == struct.pack("f", value):
            return float(text)
    raise ValueError(value)


def numbers(tensor):
    return [decimal(value) for value in tensor.detach().flatten().tolist()]


def active(parts):
    return sum(view for _, view in parts)


def fixture(layer, forward, module, x, names, **options):
    """One case: the forward, and the gradients from a random gradient of the output."""
    x.requires_grad_()
    output = forward(x)
    upstream = torch.randn(output.shape)
    output.backward(upstream)
    values = {ours: tensor for ours, (tensor, _) in names(module).items()}
    gradients = {ours: gradient for ours, (_, gradient) in names(module).items() if gradient is not None}
    return {
        "layer": layer,
        **options,
        "input": numbers(x),
        "upstream": numbers(upstream),
        "output": numbers(output),
        "input_gradient": numbers(x.grad),
        "parameters": {ours: numbers(tensor) for ours, tensor in values.items()},
        "gradients": {ours: numbers(gradient) for ours, gradient in gradients.items()},
    }


def named(**ours):
    """Our names of a module's parameters."""

    def names(module):
        parameters = dict(module.named_parameters())
        present = {name: parameters[theirs] for name, theirs in ours.items() if theirs in parameters}
        return {name: (parameter, parameter.grad) for name, parameter in present.items()}

    return names


def randomize(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def convolution(layer, groups, inputs, outputs, kernel, image, bias=True, **options):
    """A convolution with so many input and output channels in every group."""
    rank = len(kernel)
    kind = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv_transpose2d": nn.ConvTranspose2d}[layer]
    theirs = {"padding_out": "output_padding"}
    module = randomize(
        kind(
            active(groups) * active(inputs),
            active(groups) * active(outputs),
            kernel,
            groups=active(groups),
            bias=bias,
            **{theirs.get(name, name): tuple(value) for name, value in options.items()},
        )
    )
    x = torch.randn(2, active(groups) * active(inputs), *image)
    defaults = {"stride": [1] * rank, "dilation": [1] * rank, "padding": [0] * rank, "padding_out": [0] * rank}
    flat = {"kernel": kernel, "image": image, **defaults, **options}
    # A 1-D convolution is told as a 2-D one along the width.
    along = {"kernel": 1, "image": 1, "stride": 1, "dilation": 1, "padding": 0, "padding_out": 0}
    told = {name: [along[name]] * (2 - rank) + list(value) for name, value in flat.items()}
    sizes = {"groups": groups, "inputs": inputs, "outputs": outputs, "option": bias}
    return fixture(layer, module, module, x, named(weight="weight", bias="bias"), **sizes, **told)


def maps(features, other, image, option=True):
    return {"features": features, "other": other, "image": image, "option": option}


def linear(features, other, image, bias):
    module = randomize(nn.Linear(active(features) * image[0] * image[1], active(other), bias=bias))

    def names(module):
        ours = named(weight="weight", bias="bias")(module)
        weight, gradient = ours["weight"]
        return {**ours, "weight": (weight.t(), gradient.t())}

    return fixture("linear", module, module, torch.randn(2, module.in_features), names, **maps(features, other, image, bias))


def batch_norm(features, image, training):
    module = randomize(nn.BatchNorm2d(active(features), eps=1e-3))
    nn.init.normal_(module.running_mean)
    nn.init.uniform_(module.running_var, 0.5, 2.0)
    module.train(training)
    statistics = {} if training else {
        "running_mean": (module.running_mean.clone(), None),
        "running_var": (module.running_var.clone(), None),
    }
    names = named(gamma="weight", beta="bias")
    x = torch.randn(3, active(features), *image)
    return fixture(
        "batch_norm", module, module, x, lambda module: {**names(module), **statistics},
        **maps(features, [[1, 1]], image, training),
    )


def group_norm(groups, each, image, affine):
    module = randomize(nn.GroupNorm(active(groups), active(groups) * active(each), eps=1e-3, affine=affine))
    x = torch.randn(2, module.num_channels, *image)
    return fixture("group_norm", module, module, x, named(gamma="weight", beta="bias"), **maps(groups, each, image, affine))


def layer_norm(features, length):
    module = randomize(nn.LayerNorm(active(features), eps=1e-3))
    x = torch.randn(2, length, active(features))
    return fixture("layer_norm", module, module, x, named(gamma="weight", beta="bias"), **maps(features, [[1, 1]], [length, 1]))


def prelu(features, image, shared):
    module = randomize(nn.PReLU(1 if shared else active(features)))
    x = torch.randn(2, active(features), *image)
    return fixture("prelu", module, module, x, named(alpha="weight"), **maps(features, [[1, 1]], image, shared))


def squeeze_excite(features, squeezed, image, is_sigmoid):
    module = nn.Module()
    module.reduce = nn.Conv2d(active(features), active(squeezed), 1)
    module.expand = nn.Conv2d(active(squeezed), active(features), 1)
    randomize(module)
    gate = torch.sigmoid if is_sigmoid else F.hardsigmoid

    def forward(x):
        return x * gate(module.expand(torch.relu(module.reduce(x.mean((2, 3), keepdim=True)))))

    names = named(**{name.replace(".", "_"): name for name, _ in module.named_parameters()})
    dotted = lambda module: {name.replace("_", "."): value for name, value in names(module).items()}
    x = torch.randn(2, active(features), *image) + 0.5
    return fixture("squeeze_excite", forward, module, x, dotted, **maps(features, squeezed, image, is_sigmoid))


ONE = [[1, 1]]
CASES = [
    convolution("conv1d", ONE, [[4, 3]], [[5, 2]], [3], [9], stride=[2], padding=[1]),
    convolution("conv1d", [[3, 2]], [[2, 2]], [[3, 2]], [2], [8], stride=[3], bias=False),
    convolution("conv1d", [[5, 3]], ONE, ONE, [3], [7], dilation=[2], padding=[2]),
    convolution("conv2d", ONE, [[3, 2], [4, 2]], [[6, 3]], [3, 3], [5, 4], padding=[1, 1]),
    convolution("conv2d", [[3, 2]], [[3, 2]], [[4, 3]], [2, 3], [5, 5], stride=[2, 1], padding=[1, 0]),
    convolution("conv2d", [[4, 3], [2, 1]], ONE, [[2, 2]], [3, 3], [5, 5], stride=[2, 2], padding=[1, 1], bias=False),
    convolution("conv2d", ONE, [[2, 1]], [[3, 2]], [3, 2], [7, 5], dilation=[2, 3]),
    convolution("conv2d", ONE, [[5, 5]], [[1, 1]], [1, 1], [1, 1]),
    convolution(
        "conv_transpose2d", ONE, [[4, 3]], [[5, 2]], [3, 2], [3, 4],
        stride=[2, 3], padding=[1, 0], padding_out=[1, 2],
    ),
    convolution("conv_transpose2d", [[3, 2]], [[3, 2]], [[2, 1]], [2, 3], [4, 3], dilation=[2, 1], padding=[0, 1]),
    convolution("conv_transpose2d", [[4, 3]], ONE, ONE, [4, 4], [2, 3], stride=[2, 2], padding=[1, 1], bias=False),
    linear([[3, 2], [2, 1]], [[5, 4]], [2, 3], True),
    linear([[6, 1]], [[4, 1]], [1, 1], False),
    batch_norm([[3, 2], [4, 2]], [3, 2], True),
    batch_norm([[3, 2], [4, 2]], [3, 2], False),
    group_norm([[3, 2]], [[4, 3]], [3, 2], True),
    group_norm([[2, 2]], [[3, 1]], [2, 3], False),
    layer_norm([[5, 3], [2, 1]], 4),
    prelu([[3, 2], [2, 1]], [3, 3], False),
    prelu([[4, 3]], [2, 2], True),
    squeeze_excite([[4, 2], [3, 2]], [[3, 2]], [3, 2], True),
    squeeze_excite([[4, 3]], [[3, 2]], [3, 3], False),
]
content = {"pytorch": torch.__version__.split("a")[0], "cases": CASES}
FILE.parent.mkdir(exist_ok=True)
FILE.write_text(json.dumps(content, separators=(",", ":")).replace('{"layer"', '\n{"layer"') + "\n")
