"""Networks of every legal kind and size: shapes, gradients, rows that do not depend on their batch, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nvae_bio.config import LIKELIHOODS, ModelSettings, parse_settings
from nvae_bio.data.batch import Batch
from nvae_bio.errors import UserError
from nvae_bio.model import build_nvae
from nvae_bio.model.backbones import ConvHead, ConvTrunk, dense_layers, halved_sizes
from nvae_bio.model.likelihoods import LIKELIHOOD_CLASSES
from tests.small_models import fixed_seed, law, make_batch, make_generator, make_model, make_moments, make_terms

SIZES = [(8, 8), (28, 28), (48, 42), (96, 96), (11, 13), (9, 8)]
LEGAL = [
    *(("mlp", likelihood) for likelihood in LIKELIHOOD_CLASSES),
    *(("conv", likelihood) for likelihood in LIKELIHOODS["images"]),
]
DIMS = {
    "nvae": {"n_shared": 3, "n_private": 2},
    "cvae": {"n_shared": 3},
    "vae": {"n_shared": 3},
    "per_class": {"n_private": 2},
}


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_conv_gives_back_the_shape_it_is_given(size: tuple[int, int], n_channels: int) -> None:
    image = (n_channels, *size)
    n_features = n_channels * size[0] * size[1]
    model = make_model(image=image, n_features=n_features, backbone="conv", hidden=(8,), channels=(4, 6), n_private=1)
    batch = make_batch(n=4, n_features=n_features)
    terms = make_terms(model, batch)
    assert terms.log_likelihood.shape == (4,) and terms.log_likelihood.isfinite().all()
    pixels = model.decode(torch.zeros(4, 10).double(), torch.zeros(4, 1).double(), batch.label, None).mean
    assert pixels.shape == batch.x.shape


@pytest.mark.parametrize("variant", DIMS)
@pytest.mark.parametrize(("backbone", "likelihood"), LEGAL)
def test_every_parameter_gets_a_gradient(backbone: str, likelihood: str, variant: str) -> None:
    model = make_model(
        variant, likelihood, n_features=2 * 9 * 8, image=(2, 9, 8), backbone=backbone, hidden=(12, 10), channels=(4, 6),
        **DIMS[variant],
    )  # fmt: skip
    batch = make_batch(likelihood, n=12, n_features=2 * 9 * 8)
    model.fit_output_bias(make_moments(batch))
    make_terms(model, batch).objective(0.5, 1.0, "all", 1.0).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or parameter.numel() == 0, name


@pytest.mark.parametrize(("backbone", "likelihood"), LEGAL)
def test_one_row_is_the_row_of_a_bigger_batch(backbone: str, likelihood: str) -> None:
    model = make_model(
        likelihood=likelihood,
        n_features=72,
        image=(1, 9, 8),
        backbone=backbone,
        channels=(4, 6),
        n_shared=3,
        n_private=2,
    )
    batch = make_batch(likelihood, n=5, n_features=72)
    model.fit_output_bias(make_moments(batch))
    whole = outputs(model, batch)
    for row in range(5):
        part = Batch(*(None if value is None else value[row : row + 1] for value in batch))
        for one, many in zip(outputs(model, part), whole, strict=True):
            torch.testing.assert_close(one[0], many[row])


def outputs(model: torch.nn.Module, batch: Batch) -> list[Tensor]:
    inputs = model.likelihood.encoder_input(batch.x, batch.library)
    posterior = model.encoder(inputs)
    own = posterior.own(batch.label)
    decoded = model.decode(posterior.shared.mean, own.mean, batch.label, batch.library)
    return [posterior.shared.log_std, own.mean, decoded.mean, model.classifier(inputs)]


# --- convolutions see images as images -------------------------------------------------------------------------------


@fixed_seed()
def test_trunk_reads_channels_then_rows_then_columns() -> None:
    # a pixel reaches exactly the outputs of the first stage whose 3×3 window, 2 apart, covers it
    trunk = ConvTrunk((2, 11, 13), (4, 6), (8,))
    first = trunk.stages[0][0]
    torch.nn.init.zeros_(first.bias)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([0.0, 1.0])[:, None, None])  # only the second channel is seen
    seen: list[Tensor] = []
    first.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0, 0]))
    row, column = 4, 7
    for channel in range(2):
        x = torch.zeros(1, 2 * 11 * 13)
        x[0, channel * 11 * 13 + row * 13 + column] = 1
        trunk(x)
    covered = torch.tensor(
        [[float(abs(2 * i - row) <= 1 and abs(2 * j - column) <= 1) for j in range(7)] for i in range(6)]
    )
    torch.testing.assert_close(seen[0], torch.zeros(6, 7))
    torch.testing.assert_close(seen[1], covered)


@fixed_seed()
def test_head_writes_channels_then_rows_then_columns() -> None:
    head = ConvHead((2, 11, 13), (4, 6), (8,))
    drawn: list[Tensor] = []
    head.stages[-1].register_forward_hook(lambda _module, _inputs, output: drawn.append(output))
    bias = torch.arange(2.0 * 11 * 13)
    pixels = head(torch.rand(3, 8, generator=make_generator(0)), bias)
    for channel, row, column in [(0, 0, 0), (0, 4, 7), (1, 10, 12)]:
        at = channel * 11 * 13 + row * 13 + column
        torch.testing.assert_close(pixels[:, at], drawn[0][:, channel, row, column] + bias[at])


@law
@given(st.integers(1, 3), st.integers(5, 20), st.integers(5, 20), st.integers(1, 3))
@fixed_seed()
def test_head_mirrors_trunk_at_any_size(n_channels: int, height: int, width: int, n_stages: int) -> None:
    image, channels = (n_channels, height, width), (3, 4, 2)[:n_stages]
    trunk, head = ConvTrunk(image, channels, (5, 6)), ConvHead(image, channels, (6, 5))
    x = torch.rand(2, n_channels * height * width, generator=make_generator(0))
    shape = trunk.stages[:-1](x.reshape(2, *image)).shape[1:]
    assert tuple(shape) == head.start
    assert head(trunk(x), torch.zeros(x.shape[1])).shape == x.shape


@pytest.mark.parametrize("size", SIZES)
@fixed_seed()
def test_every_pixel_is_drawn_by_the_last_stage(size: tuple[int, int]) -> None:
    # cropping keeps whole windows: with positive weights, no pixel is left at the 0 of an uncovered place
    head = ConvHead((1, *size), (3, 4), (5,))
    for parameter in head.stages.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    assert (head(torch.rand(2, 5, generator=make_generator(0)), torch.zeros(size[0] * size[1])) > 0).all()


@law
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 9))
def test_stages_halve_until_nothing_is_left(height: int, width: int, n_stages: int) -> None:
    most = (min(height, width) - 1).bit_length()  # halvings, rounding up, until the shorter side is 1
    if n_stages <= most:
        expected = [(-(-height // 2**i), -(-width // 2**i)) for i in range(n_stages + 1)]
        assert halved_sizes((1, height, width), n_stages) == expected
    else:
        with pytest.raises(UserError, match=rf"{height}×{width} pixels.*at most {most}$"):
            halved_sizes((1, height, width), n_stages)


@fixed_seed()
def test_too_many_stages_are_refused_in_one_line() -> None:
    settings = ModelSettings(backbone="conv", channels=(8, 8, 8, 8))
    with pytest.raises(UserError) as refusal:
        build_nvae(settings, "bernoulli", 64, 3, (1, 8, 8))
    assert str(refusal.value) == (
        "model.channels: 4 stages are too many for images of 8×8 pixels, each halves them; at most 3"
    )
    build_nvae(ModelSettings(backbone="conv", channels=(8, 8, 8)), "bernoulli", 64, 3, (1, 8, 8))


@pytest.mark.parametrize("key", ["hidden", "channels"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "should have at least 1 item"),
        ([8, 0], "0 is not allowed"),
        ([-3], "-3 is not allowed"),
        ([8.5], "8.5 is not allowed"),
        (64, "64 is not allowed"),
        ("wide", "'wide' is not allowed"),
        (None, "is not allowed"),
    ],
)
def test_bad_widths_are_refused_in_one_line(key: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_settings({key: value}, ModelSettings, "config.yaml")
    message = str(refusal.value)
    assert message.startswith(f"config.yaml: {key}") and said in message and "\n" not in message


@fixed_seed()
def test_dense_layers_chain_their_widths() -> None:
    layers = dense_layers([7, 5, 3])
    assert [layer.weight.shape for layer in layers if isinstance(layer, torch.nn.Linear)] == [(5, 7), (3, 5)]
    assert (layers(torch.randn(4, 7, generator=make_generator(0))) >= 0).all()
