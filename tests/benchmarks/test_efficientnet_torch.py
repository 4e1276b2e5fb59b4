"""EfficientNet-Lite0 written plainly in PyTorch: the same features, and how long they take.

    pip install -e ".[torch,test]"
    XLA_FLAGS= pytest -m benchmark -s tests/benchmarks/test_efficientnet_torch.py

Batch normalisation as it was trained, weights as PyTorch itself reads them. All cores, on a
machine that does nothing else.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.models.features import efficientnet, efficientnet_weights

torch = pytest.importorskip("torch", reason="pip install vidgen[torch]")
pytestmark = pytest.mark.benchmark

from torch.nn import functional as F  # noqa: E402

# Side of the kernel, stride, blocks: Tan and Le, 2019, table 1.
STAGES = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]
LAST = {4: 2, 8: 4, 16: 10, 32: 15}  # the last block of each downsampling


class Plain:
    """The network as a chain of PyTorch's functions on the tensors of the file."""

    def __init__(self):
        self.tensors = torch.load(efficientnet_weights.find(), weights_only=True)

    def unit(self, x, convolution, norm, stride=1):
        kernel = self.tensors[f"{convolution}.weight"]
        side = kernel.shape[-1]
        (top, bottom), (left, right) = (
            divmod(max((-(-size // stride) - 1) * stride + side - size, 0), 2)
            for size in x.shape[2:]
        )
        x = F.pad(x, (left, left + right, top, top + bottom))
        x = F.conv2d(x, kernel, stride=stride, groups=1 if kernel.shape[1] > 1 else len(kernel))
        mean, var, weight, bias = (
            self.tensors[f"{norm}.{name}"]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    def features(self, x):
        x, found, number = F.relu6(self.unit(x, "_conv_stem", "_bn0", 2)), {}, 0
        for side, first, blocks in STAGES:
            for block in range(blocks):
                name, y = f"_blocks.{number}", x
                if number:
                    y = F.relu6(self.unit(y, f"{name}._expand_conv", f"{name}._bn0"))
                depthwise = f"{name}._depthwise_conv"
                assert self.tensors[f"{depthwise}.weight"].shape[-1] == side
                y = self.unit(y, depthwise, f"{name}._bn1", 1 if block else first)
                y = self.unit(F.relu6(y), f"{name}._project_conv", f"{name}._bn2")
                x = x + y if block else y
                found[number], number = x, number + 1
        return {tap: found[last] for tap, last in LAST.items()}

    def logits(self, x):
        x = F.relu6(self.unit(self.features(x)[32], "_conv_head", "_bn1")).mean((2, 3))
        return F.linear(x, self.tensors["_fc.weight"], self.tensors["_fc.bias"])


def images(size, number=24):
    return np.random.default_rng(0).uniform(-1, 1, (number, size, size, 3)).astype(np.float32)


def to_torch(x):
    return torch.tensor(np.moveaxis(x, -1, 1))


@pytest.mark.parametrize("size", [64, 96, 128, 224])
def test_features_are_those_of_pytorch(size):
    weights, x, plain = efficientnet_weights.load(), images(size, 4), Plain()
    found = efficientnet.features(weights, jnp.asarray(x))
    with torch.no_grad():
        expected = {tap: y.movedim(1, -1).numpy() for tap, y in plain.features(to_torch(x)).items()}
        logits = plain.logits(to_torch(x)).numpy()
    for tap, y in expected.items():
        print(f"{size} px, tap {tap}: differs by {abs(found[tap] - y).max():.1e} of {y.std():.2f}")
        np.testing.assert_allclose(found[tap], y, atol=1e-4 * y.std())
    np.testing.assert_allclose(
        efficientnet.logits(weights, jnp.asarray(x)), logits, atol=1e-4 * logits.std()
    )


def test_time():
    weights, x, plain = efficientnet_weights.load(), images(64), Plain()

    def own(images, slopes):
        found, backward = jax.vjp(functools.partial(efficientnet.features, weights), images)
        return backward({tap: slopes * y for tap, y in found.items()})

    def theirs():
        given = to_torch(x).requires_grad_()
        found = plain.features(given)
        torch.autograd.backward(list(found.values()), [y.detach() for y in found.values()])
        return given.grad

    @torch.no_grad()
    def theirs_forward():
        return plain.features(to_torch(x))

    forward = jax.jit(functools.partial(efficientnet.features, weights))
    both = jax.jit(own)
    runs = {
        "forward": lambda: jax.block_until_ready(forward(x)),
        "forward, PyTorch": theirs_forward,
        "and backward": lambda: jax.block_until_ready(both(x, 1.0)),
        "and backward, PyTorch": theirs,
    }
    times = {name: [] for name in runs}
    for _ in range(12):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    for name, each in times.items():
        print(f"24 frames of 64x64, {name}: {1e3 * np.median(each[2:]):.0f} ms")
    # A ReLU whose input is 0 but for rounding has a slope of 0 here and of 1 there.
    expected = np.moveaxis(theirs().numpy(), 1, -1)
    assert np.linalg.norm(both(x, 1.0)[0] - expected) < 1e-3 * np.linalg.norm(expected)
