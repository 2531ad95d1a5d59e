#!/usr/bin/env python3
"""Writes the fixtures of tests/weights.rs: networks of torchvision with random weights, images and their class scores.

    python3 elastic-layers/tests/python/torchvision_fixtures.py [--full DIR]

writes `elastic-layers/tests/fixtures/torchvision/`: a narrow MobileNetV2, as `.pth` and as `.safetensors`, and the
names and shapes of the tensors of the networks of full size. With `--full`, also MobileNetV2 and ResNet-50 of full size
into DIR, which is too much to keep; the test reads it when TORCHVISION_FULL names it. Written with torch 1.13.1 and
torchvision 0.14.1.
"""

import argparse
import json
import struct
from pathlib import Path

import torch
import torchvision

HERE = Path(__file__).resolve().parent.parent / "fixtures" / "torchvision"


def randomized(model, seed):
    """Batch norms that do something: a new network's have statistics of zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.rand(value.shape, generator=generator)
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.copy_(0.5 + noise)
        elif value.dim() == 1:
            value.copy_(0.4 * noise - 0.2)
    return model.eval()


def write_safetensors(path, tensors):
    """The format by its definition: the length of a header, the header, and the numbers."""
    header, offset = {}, 0
    for name, value in tensors.items():
        size = 4 * value.numel()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for value in tensors.values():
            file.write(value.contiguous().numpy().astype("<f4").tobytes())


def write(directory, name, model, size, safetensors=False):
    directory.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    torch.save(state, directory / f"{name}.pth")
    if safetensors:
        floats = {key: value for key, value in state.items() if value.is_floating_point()}
        write_safetensors(directory / f"{name}.safetensors", floats)
    # Images of a rule, so that they need not be kept.
    rule = torch.tensor([((index * 7919) % 1009) / 504.5 - 1 for index in range(2 * 3 * size * size)])
    images = rule.reshape([2, 3, size, size])
    with torch.no_grad():
        scores = model(images)
    (directory / f"{name}.json").write_text(json.dumps({"size": size, "scores": scores.tolist()}) + "\n")


def shapes(model):
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    narrow = torchvision.models.MobileNetV2(
        num_classes=10,
        inverted_residual_setting=[[1, 8, 1, 1], [2, 16, 2, 2], [3, 24, 2, 2]],
        width_mult=1.0,
    )
    write(HERE, "mobilenet-v2-narrow", randomized(narrow, 2), 32, safetensors=True)
    full = {"mobilenet-v2": torchvision.models.mobilenet_v2(), "resnet-50": torchvision.models.resnet50()}
    (HERE / "shapes.json").write_text(json.dumps({name: shapes(model) for name, model in full.items()}) + "\n")
    if arguments.full:
        for name, model in full.items():
            write(arguments.full, name, randomized(model, 3), 224)


if __name__ == "__main__":
    main()
