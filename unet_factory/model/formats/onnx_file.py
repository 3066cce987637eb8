"""Networks as ONNX files, with any spatial extents."""

import threading
from functools import lru_cache

import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load

from unet_factory.domain.manifest import Architecture, Strides
from unet_factory.model.formats.exported import exported_unet
from unet_factory.model.formats.facts import facts_of
from unet_factory.platform.manifest_file import read_standalone_manifest

_EXPORTING = threading.Lock()


def onnx_bytes(standalone: bytes, identity: str) -> bytes:
    """A file with the input ``volume`` (1, channels, *space) and the output ``logits`` (1, classes, *space), float32.

    float16 weights are stored as such and cast to float32 at the start.
    """
    manifest, tensors = read_standalone_manifest(standalone), load(standalone)
    with _EXPORTING:
        template = _template(manifest.architecture, manifest.strides or ())
    model = ModelProto()
    model.CopyFrom(template)
    casts = []
    for initializer in model.graph.initializer:
        name = initializer.name
        if name not in tensors:
            continue
        stored = name
        if manifest.dtype == "float16":
            stored = f"{name}.float16"
            casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
        initializer.CopyFrom(numpy_helper.from_array(tensors.pop(name), stored))
    assert not tensors, "every weight has its place in the graph"
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    helper.set_model_props(model, facts_of(manifest, identity))
    onnx.checker.check_model(model)
    blob: bytes = model.SerializeToString(deterministic=True)
    return blob


@lru_cache(maxsize=8)
def _template(architecture: Architecture, strides: Strides) -> ModelProto:
    """The graph of a topology; exporting takes seconds, replacing its weights milliseconds."""
    program = torch.onnx.export(
        exported_unet(architecture, strides),
        (),
        dynamo=True,
        input_names=["volume"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    model: ModelProto = program.model_proto
    return model
