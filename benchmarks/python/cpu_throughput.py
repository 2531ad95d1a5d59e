"""PyTorch's side of `cpu-throughput`: reads one request a line (JSON) on stdin, answers one line of JSON each.

The networks are built from the shapes of the other side's parameters, in its order, so that both have the same sizes.
"""

import json
import resource
import sys
import time

import numpy
import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-5
LAYOUTS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}


class Shapes:
    """The shapes of parameters that are not used yet."""

    def __init__(self, shapes):
        self.shapes = list(shapes)

    def take(self):
        return self.shapes.pop(0)

    def conv_norm(self, stride, activation):
        outputs, group, kernel, _ = self.take()
        for _ in range(4):
            assert self.take() == [outputs], "scale, shift and running statistics"
        # A depthwise weight has one input channel a group; no dense layer behind the stem has one.
        groups = outputs if group == 1 and kernel > 1 else 1
        conv = nn.Conv2d(group * groups, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=EPSILON), *([activation] if activation else []))

    def linear(self):
        inputs, outputs = self.take()
        self.take()
        assert not self.shapes, "no parameters left"
        return nn.Linear(inputs, outputs)


class Inverted(nn.Module):
    def __init__(self, shapes, expands, stride, shortcut):
        super().__init__()
        layers = [shapes.conv_norm(1, nn.ReLU6(inplace=True))] if expands else []
        layers.append(shapes.conv_norm(stride, nn.ReLU6(inplace=True)))
        layers.append(shapes.conv_norm(1, None))
        self.layers = nn.Sequential(*layers)
        self.shortcut = shortcut

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


class Residual(nn.Module):
    def __init__(self, shapes, stride, projects):
        super().__init__()
        self.conv1 = shapes.conv_norm(stride, nn.ReLU(inplace=True))
        self.conv2 = shapes.conv_norm(1, None)
        self.projection = shapes.conv_norm(stride, None) if projects else nn.Identity()

    def forward(self, x):
        return functional.relu(self.conv2(self.conv1(x)) + self.projection(x), inplace=True)


class Network(nn.Module):
    def __init__(self, network, shapes):
        super().__init__()
        shapes = Shapes(shapes)
        layers = []
        if network == "mobilenet-v2":
            layers.append(shapes.conv_norm(1, nn.ReLU6(inplace=True)))
            stages = [(1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)]
            for expansion, blocks, stride in stages:
                for block in range(blocks):
                    layers.append(Inverted(shapes, expansion > 1, 1 if block else stride, block > 0))
            layers.append(shapes.conv_norm(1, nn.ReLU6(inplace=True)))
        elif network == "resnet-20":
            layers.append(shapes.conv_norm(1, nn.ReLU(inplace=True)))
            for stage in range(3):
                for block in range(3):
                    first = stage > 0 and block == 0
                    layers.append(Residual(shapes, 2 if first else 1, first))
        else:
            raise ValueError(f"network {network}")
        self.layers = nn.Sequential(*layers)
        self.classifier = shapes.linear()

    def forward(self, x):
        return self.classifier(self.layers(x).mean(dim=(2, 3)))

    def load(self, path):
        """Weights, scales and shifts, one after the other, in the order of the shapes."""
        values = numpy.fromfile(path, dtype=numpy.float32)
        place = 0
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    tensors = [module.weight]
                elif isinstance(module, nn.BatchNorm2d):
                    tensors = [module.weight, module.bias, module.running_mean, module.running_var]
                elif isinstance(module, nn.Linear):
                    tensors = [module.weight.t(), module.bias]
                else:
                    continue
                for tensor in tensors:
                    part = values[place : place + tensor.numel()].reshape(tensor.shape)
                    tensor.copy_(torch.from_numpy(part))
                    place += tensor.numel()
        assert place == len(values), f"{place} of {len(values)} numbers used"


def training(request, images, labels):
    """A function that makes one step, and returns the loss as a tensor."""
    layout = LAYOUTS[request["layout"]]
    model = Network(request["network"], request["shapes"]).to(memory_format=layout).train()
    if "weights" in request:
        model.load(request["weights"])
    optimizer = torch.optim.SGD(model.parameters(), lr=request["learning_rate"], momentum=0.9, nesterov=True)

    def step(x=images, y=labels):
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(x.contiguous(memory_format=layout)), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def inference(request, images):
    layout = LAYOUTS[request["layout"]]
    model = Network(request["network"], request["shapes"]).to(memory_format=layout).eval()
    images = images.contiguous(memory_format=layout)

    def step():
        with torch.inference_mode():
            return model(images)

    return step


def operation(request):
    """Forward, and backward if asked for, of one convolution or of one batch norm with ReLU6."""
    layout = LAYOUTS[request["layout"]]
    backward = request["backward"]
    x = torch.randn(request["input"]).contiguous(memory_format=layout).requires_grad_(backward)
    if "weight" in request:
        weight = torch.randn(request["weight"]).contiguous(memory_format=layout).requires_grad_(backward)
        stride, padding, groups = request["stride"], request["padding"], request["groups"]

        def forward():
            return functional.conv2d(x, weight, None, stride, padding, groups=groups)
    else:
        channels = request["input"][1]
        gamma = torch.ones(channels, requires_grad=backward)
        beta = torch.zeros(channels, requires_grad=backward)

        def forward():
            return functional.relu6(functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPSILON))

    with torch.no_grad():
        grad = torch.randn_like(forward())

    def step():
        if not backward:
            with torch.no_grad():
                return forward()
        return forward().backward(grad)

    return step


def make(request):
    torch.manual_seed(1)
    kind = request["kind"]
    if kind == "operation":
        return operation(request)
    images = torch.randn(request["batch"], 3, 32, 32)
    labels = torch.arange(request["batch"]) % 10
    return training(request, images, labels) if kind == "training" else inference(request, images)


def losses(request):
    batch, steps = request["batch"], request["steps"]
    images = numpy.fromfile(request["images"], dtype=numpy.float32).reshape(steps, batch, 3, 32, 32)
    step = training(request, None, None)
    labels = torch.arange(batch) % 10
    return [step(torch.from_numpy(images[number]), labels).item() for number in range(steps)]


def answer(request, cases):
    if request["do"] == "hello":
        torch.set_num_threads(request["threads"])
        return {"version": torch.__version__, "threads": torch.get_num_threads()}
    if request["do"] == "make":
        cases[request["case"]] = make(request)
        return {}
    if request["do"] == "drop":
        cases.clear()
        return {}
    if request["do"] == "run":
        start = time.perf_counter()
        cases[request["case"]]()
        return {"seconds": time.perf_counter() - start}
    if request["do"] == "losses":
        return {"losses": losses(request)}
    if request["do"] == "memory":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step = make(request)
        for _ in range(3):
            step()
        return {"before_mb": before / 1024, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    raise ValueError(request["do"])


def main():
    cases = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), cases)
        except Exception as error:  # The other side prints it.
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
