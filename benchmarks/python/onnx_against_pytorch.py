"""Speed, in ONNX Runtime, of our files against those that PyTorch exports for the same networks.

    cargo build --release --workspace --example export_backbone
    python benchmarks/python/onnx_against_pytorch.py --exporter target/release/examples/export_backbone

Needs: pip install numpy onnx onnxruntime onnxscript torch

Both files have the network at full size (224 pixels, 1000 classes) with random weights. They are run in turn, image by
image, in one process, so that whatever else the machine does hits both; the order changes from round to round. Prints
one line of JSON per network: the medians in milliseconds, their ratio (ours over PyTorch's), the quartiles of the ratio
of neighbouring runs, and the nodes of each file. Where the machine changes its speed, the median of the ratios, the
second quartile, says more than the ratio of the medians.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn


def conv_norm(inputs, outputs, kernel=1, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        middle = inputs * expansion
        expand = [*conv_norm(inputs, middle), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv_norm(middle, middle, 3, stride, middle), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *conv_norm(middle, outputs))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.body(x) if self.has_shortcut else self.body(x)


def mobilenet_v2():
    layers = [*conv_norm(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    for expansion, outputs, count, stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:
        for index in range(count):
            layers.append(Inverted(inputs, outputs, stride if index == 0 else 1, expansion))
            inputs = outputs
    layers += [*conv_norm(320, 1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    def __init__(self, inputs, middle, stride):
        super().__init__()
        outputs = 4 * middle
        self.body = nn.Sequential(
            *conv_norm(inputs, middle), nn.ReLU(), *conv_norm(middle, middle, 3, stride), nn.ReLU(),
            *conv_norm(middle, outputs),
        )
        joins = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if joins else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.body(x) + self.shortcut(x))


def resnet_50():
    layers = [*conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for middle, count, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for index in range(count):
            layers.append(Bottleneck(inputs, middle, stride if index == 0 else 1))
            inputs = 4 * middle
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*layers)


# Parameters as published: what makes sure that the two networks are the same one.
NETWORKS = {"mobilenet-v2": (mobilenet_v2, 3_504_872), "resnet-50": (resnet_50, 25_557_032)}


def pytorch_file(name, path):
    build, parameters = NETWORKS[name]
    model = build().eval()
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == parameters, f"{name}: expected {parameters} parameters, found {counted}"
    torch.onnx.export(model, (torch.randn(1, 3, 224, 224),), path, external_data=False)


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def milliseconds(network, images):
    start = time.perf_counter()
    network.run(None, {network.get_inputs()[0].name: images})
    return 1000 * (time.perf_counter() - start)


def compare(paths, threads, rounds):
    networks = [session(path, threads) for path in paths]
    images = np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)
    for network in networks:
        for _ in range(5):
            milliseconds(network, images)
    samples = [[], []]
    for index in range(rounds):
        for place in (0, 1) if index % 2 == 0 else (1, 0):
            samples[place].append(milliseconds(networks[place], images))
    medians = [statistics.median(part) for part in samples]
    quartiles = statistics.quantiles((ours / theirs for ours, theirs in zip(*samples)), n=4)
    return medians, medians[0] / medians[1], quartiles


def operators(path):
    return dict(sorted(Counter(node.op_type for node in onnx.load(path).graph.node).items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporter", required=True, help="the example export_backbone, built with --release")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--keep", help="a folder for the files, which are otherwise temporary; those there are not made again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.networks:
            ours, theirs = folder / f"{name}.onnx", folder / f"{name}.pytorch.onnx"
            if not ours.exists():
                subprocess.run([arguments.exporter, name, "224", ours], check=True)
            if not theirs.exists():
                pytorch_file(name, theirs)
            medians, ratio, quartiles = compare([ours, theirs], arguments.threads, arguments.rounds)
            print(json.dumps({
                "network": name, "threads": arguments.threads, "rounds": arguments.rounds,
                "ours_p50_ms": round(medians[0], 3), "pytorch_p50_ms": round(medians[1], 3), "ratio": round(ratio, 4),
                "ratio_quartiles": [round(quartile, 4) for quartile in quartiles],
                "ours": operators(ours), "pytorch": operators(theirs),
                "onnxruntime": onnxruntime.__version__, "torch": torch.__version__,
            }))


if __name__ == "__main__":
    main()
