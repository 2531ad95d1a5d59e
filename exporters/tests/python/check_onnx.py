"""Checks exported ONNX files with tools that are not ours.

    python check_onnx.py [--allow OPERATOR]... FILE...

Needs: pip install onnx onnxslim

For every file:

- `onnx.checker` with full check (shape inference included) accepts it;
- the shapes in its value infos are those that `onnx.shape_inference` finds without them;
- it holds no Slice and no BatchNormalization (`--allow OPERATOR` makes an exception);
- `onnxslim` does not make its graph smaller;
- its multiply-accumulates and parameters, counted here from the shapes of its own initialisers and values, are the
  numbers in its metadata (`macs`, `parameters`).

The parameters are those of the model as PyTorch counts it, from before batch norm was folded. Folding a batch norm
into a convolution turns its gamma and beta (2 c parameters), and the convolution's bias if it had one (c), into one
bias of c elements. A node into which a batch norm was folded says so in its doc string, so its bias counts twice, or
three times if the convolution had a bias of its own. `file_parameters` is what the file itself holds.

Prints one line of JSON per file; exits 1 at the first file that fails.
"""

import argparse
import concurrent.futures
import json
import math
import sys
from collections import Counter

import onnx
import onnxslim

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
FOLDED = "batch norm folded in: "
FOLDED_WITH_BIAS = "bias and batch norm folded in: "


def dims(value_info):
    return [d.dim_param or d.dim_value for d in value_info.type.tensor_type.shape.dim]


def inferred_shapes(model):
    """Shapes of all values, found by onnx alone: the file's own value infos are left out."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True).graph
    return {v.name: dims(v) for v in [*inferred.input, *inferred.output, *inferred.value_info]}


def images(dim):
    """How many elements of a dimension belong to one image: 20 of `20*batch`."""
    return int(dim.partition("*")[0]) if "*" in dim else 1


def size(shape, batch):
    """Elements for one image: the batch dimension is left out."""
    factors = [images(d) if isinstance(d, str) else d for d in shape]
    return math.prod(factors) // (1 if any(isinstance(d, str) for d in shape) else batch)


def count(model, shapes):
    """(MACs for one image, the model's parameters, the file's parameters)"""
    weights = {i.name: list(i.dims) for i in model.graph.initializer if i.data_type in FLOATS}
    batch = dims(model.graph.input[0])[0]
    batch = 1 if isinstance(batch, str) else batch
    macs = parameters = file_parameters = 0
    counted = set()

    def add(name, times=1):
        nonlocal parameters, file_parameters
        if name in weights and name not in counted:
            counted.add(name)
            parameters += times * math.prod(weights[name])
            file_parameters += math.prod(weights[name])

    for node in model.graph.node:
        bias_counts = 1
        if node.doc_string.startswith(FOLDED):
            bias_counts = 2
        elif node.doc_string.startswith(FOLDED_WITH_BIAS):
            bias_counts = 3
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = weights[node.input[1]]
            positions = node.output[0] if node.op_type == "Conv" else node.input[0]
            macs += size(shapes[positions], batch) * math.prod(weight[1:])
            add(node.input[1])
            for name in node.input[2:]:
                add(name, bias_counts)
        # A constant of the forward, as resampling is made of, is no weight.
        elif node.op_type in ("Gemm", "MatMul") and node.input[1] in weights and not node.input[1].startswith("constant"):
            macs += size(shapes[node.output[0]], batch) * weights[node.input[1]][-2]
            add(node.input[1])
            for name in node.input[2:]:
                add(name, bias_counts)
        elif node.op_type == "BatchNormalization":
            add(node.input[1])
            add(node.input[2])
        elif node.op_type in ("LayerNormalization", "PRelu", "Add", "Mul", "Sub", "Div"):
            # Constants of a parameter's own have its path as a name; scalars of the forward do not.
            for name in node.input[1:] if node.op_type == "LayerNormalization" else node.input:
                if "." in name and not name.startswith(("float_", "ints_", "constant")):
                    add(name)
    return macs, parameters, file_parameters


def check(path, allowed):
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    shapes = inferred_shapes(model)
    for value in [*model.graph.value_info, *model.graph.output]:
        found, stated = shapes.get(value.name), dims(value)
        fixed = [(a, b) for a, b in zip(found, stated, strict=True) if not isinstance(a, str) and not isinstance(b, str)]
        assert all(a == b for a, b in fixed), f"shape of {value.name}: the file says {stated}, onnx finds {found}"

    operators = Counter(node.op_type for node in model.graph.node)
    unwanted = {"Slice", "BatchNormalization"} - set(allowed)
    assert not unwanted & operators.keys(), f"unwanted operators in {dict(operators)}"

    slim = onnxslim.slim(path)
    slimmed = len(slim.graph.node)
    assert slimmed >= len(model.graph.node), (
        f"onnxslim leaves {slimmed} of {len(model.graph.node)} nodes: "
        f"{dict(operators - Counter(node.op_type for node in slim.graph.node))} less"
    )

    used = {name for node in model.graph.node for name in node.input}
    unused = [i.name for i in model.graph.initializer if i.name not in used]
    assert not unused, f"unused initialisers: {unused}"

    # Where onnx knows no more than that a dimension follows the batch, the file says how.
    for value in model.graph.value_info:
        pairs = zip(shapes[value.name], dims(value), strict=True)
        shapes[value.name] = [stated if isinstance(found, str) else found for found, stated in pairs]
    macs, parameters, file_parameters = count(model, shapes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    for key, counted in (("macs", macs), ("parameters", parameters)):
        if key in metadata:
            assert int(metadata[key]) == counted, f"{key}: the file says {metadata[key]}, its shapes give {counted}"
    return {
        "file": path,
        "macs": macs,
        "parameters": parameters,
        "file_parameters": file_parameters,
        "nodes": len(model.graph.node),
        "slim_nodes": slimmed,
        "ops": dict(sorted(operators.items())),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--allow", action="append", default=[], metavar="OPERATOR")
    arguments = parser.parse_args()
    # Checks wait for nothing but the processor.
    with concurrent.futures.ProcessPoolExecutor() as pool:
        checks = [(path, pool.submit(check, path, arguments.allow)) for path in arguments.files]
        for path, result in checks:
            try:
                print(json.dumps(result.result()))
            except Exception as error:
                print(f"{path}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
