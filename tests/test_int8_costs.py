"""What rounding an input costs, and smoothing before it, held to the model computed as it is and site by site."""

import dataclasses

import numpy as np
import torch
from conftest import standin, standin_recipe
from support.jobs import calibration_of

from converter import corpus
from converter.corpus.calibration import prepare
from converter.int8.costs import costs
from converter.int8.inputs import WAYS, Activation
from converter.int8.products import IntegerProducts
from converter.int8.shared_inputs import Input, Site, layer, rounded_model
from converter.int8.smoothing import Smoothing
from converter.int8.weights import nearest
from converter.quantize.losses import loss, masks_of
from converter.source.open import open_source

ASKED = {"target": "onnx", "cosine": 0.99, "bits": 8}


def test_smoothing_without_rounding_leaves_the_model_as_it_was() -> None:
    """Qwen3 has a norm before some inputs, and before others a layer whose rows bear the smoothing."""
    name = "qwen3-embedding-0.6b"
    loaded = standin_recipe(name)
    checkpoint = open_source(loaded, str(standin(name)))
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:40])
    products = IntegerProducts(calibration_of(checkpoint, loaded, tokens, **ASKED))
    entries = [choice["tensor"] for choice in products.choices]
    assert {entry.before[0] for entry in entries if not entry.smoothing.is_identity} == {"rms_norm", "linear"}
    smoothed = [dataclasses.replace(entry, activation=Activation("none")) for entry in entries]
    run = products.calibration.run
    with torch.inference_mode():
        exact, found = (run(rounded_model(checkpoint.read, tokens, *given)) for given in (([], []), (products.sites, smoothed)))
    assert loss(exact, found, masks_of(tokens)).max() < 1e-9


def test_each_input_costs_what_it_costs_in_a_model_of_its_own() -> None:
    """All variants are computed in one pass; here is a pass for each, its weights changed by the same measure."""
    name = "qwen3-embedding-0.6b"
    loaded = standin_recipe(name)
    checkpoint = open_source(loaded, str(standin(name)))
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:12])
    calibration = calibration_of(checkpoint, loaded, tokens, **ASKED)
    products = IntegerProducts(calibration)
    errors = [dict.fromkeys(WAYS, 1.0)] * len(products.sites)
    with torch.inference_mode():
        found = costs(calibration, products.sites, products.choices, errors, tokens, lambda: None)
        exact = calibration.run(rounded_model(checkpoint.read, tokens, [], []))
        for site, choice, given in zip(products.sites, products.choices, found, strict=True):

            def half(name: str, weight: torch.Tensor, _: object, site: Site = site) -> torch.Tensor:
                return (weight + torch.from_numpy(nearest(weight).dequantize())) / 2 if name in site.members else weight

            alone = calibration.run(rounded_model(checkpoint.read, tokens, [site], [choice["token"]], half))
            np.testing.assert_allclose(given["token"], loss(exact, alone, masks_of(tokens)), rtol=1e-3, atol=1e-8)


def test_smoothing_a_layer_before_is_borne_by_its_rows() -> None:
    make = torch.Generator().manual_seed(3)
    tensors = {"up.weight": torch.randn(6, 4, generator=make), "up.bias": torch.randn(6, generator=make)}
    smoothing = Smoothing(torch.randn(4, generator=make), torch.rand(4, generator=make) + 0.5)
    entry, rows = Input("up", ("layer_norm", "norm"), smoothing, Activation("token")), torch.rand(6, generator=make) + 0.5
    weight, bias = layer(lambda name: tensors[name].numpy(), "up", entry, rows, True)
    x = torch.randn(9, 4, generator=make)
    expected = (x @ tensors["up.weight"].T + tensors["up.bias"]) / rows
    torch.testing.assert_close(smoothing.input(x) @ weight.T + bias, expected)
