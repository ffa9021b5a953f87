"""A decoder cut behind one of its layers, whose hidden states are what is pooled."""

from converter.recipe import Recipe
from shim import positions
from shim.architectures import Architecture
from shim.errors import UsageError
from shim.jsons import JsonObject, array


def cut(recipe: Recipe, module: Architecture, config: JsonObject, layer: int) -> JsonObject:
    """The `config.json` of a decoder whose hidden states are those before its last layers: without them and the last norm.

    layer: see ModelSpec. Raises UsageError for a layer that is not there, and for what is no decoder.
    """
    if recipe.task != "embed" or not hasattr(module, "continues"):
        what = f"a {recipe.architecture} model that is to {recipe.task}"
        raise UsageError(f"{recipe.name}: layer {layer} of {what} is not supported; of a decoder that is to embed it is")
    count = positions.layers(config)
    kept = layer if layer >= 0 else count + 1 + layer
    if not 0 < kept < count:
        raise UsageError(f"{recipe.name}: layer {layer} of {count} layers; from 1 to {count - 1}, or from -2 to -{count}")
    types = {"layer_types": array(config, "layer_types")[:kept]} if config.get("layer_types") else {}
    return config | {"num_hidden_layers": kept, "final_norm": False} | types
