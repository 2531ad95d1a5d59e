#!/usr/bin/env python3
"""Writes elastic-layers/tests/fixtures/losses.json: the losses of 50 steps of training in PyTorch.

    python3 elastic-layers/tests/python/loss_fixture.py

needs PyTorch (the committed file is by version 2.15.0) and nothing else. The test fixtures.rs trains a view of a larger
network with the same weights on the same batches. Both are numbers of one generator, so neither is kept. The losses are
those of 32-bit and of 64-bit floats: how far these are from each other is what rounding does.
"""

import json
import pathlib

import torch
from torch import nn
from torch.nn import functional as F

FILE = pathlib.Path(__file__).parent.parent / "fixtures" / "losses.json"
STEPS, BATCH, IMAGE, CHANNELS, CLASSES = 50, 12, (2, 9, 7), 6, 4
RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-3


def fractions(seed, *shape):
    """As `fractions` in tests/common/mod.rs: 32-bit floats from -1 to 1, by SplitMix64."""
    mask, start = 2**64 - 1, seed * 0xD1342543DE82EF95
    values = []
    for index in range(1, torch.Size(shape).numel() + 1):
        x = (start + index * 0x9E3779B97F4A7C15) & mask
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        values.append(((x ^ (x >> 31)) >> 40) / 2**23 - 1.0)
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


class Network(nn.Module):
    """A stem, and a block as MobileNetV2's, with a shortcut."""

    def __init__(self):
        super().__init__()
        inputs, width = IMAGE[0], CHANNELS
        self.stem = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.project = nn.Conv2d(2 * width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (width, 2 * width, 2 * width, width))
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = F.relu6(self.norms[0](self.stem(x)))
        y = F.relu6(self.norms[1](self.expand(x)))
        y = F.relu6(self.norms[2](self.depthwise(y)))
        x = x + self.norms[3](self.project(y))
        return self.classifier(x.mean((2, 3)))


def losses(dtype):
    network = Network().to(dtype)
    convolutions = (network.stem, network.expand, network.depthwise, network.project)
    with torch.no_grad():
        for seed, layer in enumerate((*convolutions, network.classifier), 1):
            layer.weight.copy_(fractions(seed, *layer.weight.shape).to(dtype))
        network.classifier.bias.zero_()
    optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    labels = torch.arange(BATCH) % CLASSES
    batches = fractions(100, STEPS, BATCH, *IMAGE)
    curve = []
    for images in batches:
        # Images of a class are brighter than those of the one before.
        images = images + labels.reshape(-1, 1, 1, 1) * 0.125
        loss = F.cross_entropy(network(images.to(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


FILE.write_text(json.dumps({"f32": losses(torch.float32), "f64": losses(torch.float64)}, indent=1) + "\n")
