"""MoCoGAN's networks written plainly in PyTorch: the same function, and how long a step takes.

    pip install -e ".[torch,test]"
    XLA_FLAGS= pytest -m benchmark -s tests/benchmarks/test_mocogan_torch.py

Batches of 32 images and 8 clips of 16x64x64, all cores, on a machine that does nothing else.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidgen import keys, sampling
from vidgen.methods import mocogan

torch = pytest.importorskip("torch", reason="pip install vidgen[torch]")
pytestmark = pytest.mark.benchmark

from conftest import network  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from vidgen.methods import common  # noqa: E402

SIZE, FRAMES, CLASSES, CLIPS, IMAGES = 64, 16, 3, 8, 32


class Generator(nn.Module):
    def __init__(self, content=50, motion=10, features=64):
        super().__init__()
        self.cell = nn.GRUCell(motion, motion)
        layers, wide = [], 8 * features
        layers.append(nn.ConvTranspose2d(content + CLASSES + motion, wide, 4, 1, 0, bias=False))
        for width in (wide // 2, wide // 4, wide // 8, 3):
            layers += [nn.BatchNorm2d(wide), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(wide, width, 4, 2, 1, bias=False))
            wide = width
        self.main = nn.Sequential(*layers, nn.Tanh())

    def codes(self, content, motion, label):
        states, h = [], motion[:, 0]
        for t in range(1, motion.shape[1]):
            h = self.cell(motion[:, t], h)
            states.append(h)
        states = torch.stack(states, 1)
        about = torch.cat([content, F.one_hot(label, CLASSES).float()], 1)
        return torch.cat([about[:, None].expand(-1, states.shape[1], -1), states], 2)

    def forward(self, codes):
        b, t, c = codes.shape
        frames = self.main(codes.reshape(b * t, c, 1, 1))
        return frames.reshape(b, t, 3, SIZE, SIZE).transpose(1, 2)


class Noise(nn.Module):
    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma

    def forward(self, x):
        return x + self.sigma * torch.randn_like(x) if self.sigma else x


class VideoDiscriminator(nn.Module):
    def __init__(self, sigma, features=64):
        super().__init__()
        layers, c = [], 3
        for n in range(4):
            layers += [Noise(sigma)]
            width = features << n
            layers.append(nn.Conv3d(c, width, 4, (1, 2, 2), (0, 1, 1), bias=False))
            layers += [nn.BatchNorm3d(width)] * bool(n) + [nn.LeakyReLU(0.2)]
            c = width
        self.main = nn.Sequential(*layers, nn.Conv3d(c, 1 + CLASSES, 4, 1, 0, bias=False))

    def forward(self, video):
        logits = self.main(video).flatten(1)
        return logits[:, 0], logits[:, 1:]


class ImageDiscriminator(nn.Module):
    def __init__(self, sigma, features=64):
        super().__init__()
        layers, c = [], 3
        for n in range(3):
            width = features << n
            layers += [Noise(sigma), nn.Conv2d(c, width, 4, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(width)] * bool(n) + [nn.LeakyReLU(0.2)]
            c = width
        self.main = nn.Sequential(*layers, Noise(sigma), nn.Conv2d(c, 1, 4, 2, 1, bias=False))

    def forward(self, images):
        return self.main(images).flatten(1)


def networks(sigma):
    shared = {"size": SIZE, "classes": CLASSES}
    gen = network("generator", "mocogan", **shared)
    dis = network("discriminator", "mocogan", **shared, noise=sigma)
    return gen, dis


def parameters(gen, dis):
    players = common.Players(gen, dis, optax.identity(), optax.identity())
    init = functools.partial(mocogan.init, players=players, frames=FRAMES)
    state = jax.jit(init, static_argnums=0)(0)
    return jax.device_get((state.gen, state.dis))


def fill(module, weights):
    """Puts our parameters into a module, layer after layer."""
    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    with torch.no_grad():
        for layer, kernel in zip(layers, weights, strict=True):
            given = torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy())
            layer.weight.copy_(given.reshape(layer.weight.shape))


def fill_generator(module, params):
    with torch.no_grad():
        for name, part in (("ih", params["seen"]), ("hh", params["kept"])):
            getattr(module.cell, f"weight_{name}").copy_(torch.tensor(part["kernel"].T.copy()))
            getattr(module.cell, f"bias_{name}").copy_(torch.tensor(part["bias"]))
        layers = [m for m in module.main if isinstance(m, nn.ConvTranspose2d)]
        kernels = [params["first"].transpose(0, 3, 1, 2)]
        kernels += [params[f"rises_{n}"]["kernel"].transpose(2, 3, 0, 1) for n in range(4)]
        for layer, kernel in zip(layers, kernels, strict=True):
            layer.weight.copy_(torch.tensor(kernel.copy()))


def channels_last(video):
    return video.transpose(0, *range(2, video.ndim), 1)


def test_both_compute_the_same_function():
    gen, dis = networks(0.0)
    gen_params, dis_params = parameters(gen, dis)
    rng = np.random.default_rng(0)
    content = rng.normal(size=(2, 50)).astype(np.float32)
    motion = rng.normal(size=(2, FRAMES + 1, 10)).astype(np.float32)
    label = np.array([0, 2])
    ours, _ = gen.apply(
        {"params": gen_params}, content, motion, None, None, label, frames=FRAMES, mutable="stats"
    )
    theirs = Generator()
    fill_generator(theirs, gen_params)
    with torch.no_grad():
        codes = theirs.codes(*(torch.from_numpy(x) for x in (content, motion, label)))
        made = theirs(codes)
    np.testing.assert_allclose(channels_last(made.numpy()), ours, atol=2e-4)
    key = keys.per_clip(keys.root(0), jnp.arange(2))
    for name, module, video in (
        ("video", VideoDiscriminator(0.0), made),
        ("image", ImageDiscriminator(0.0), made[:, :, 0]),
    ):
        of = dis_params[name]
        kernels = [of[f"Convolution_{n}"]["kernel"] for n in range(4)]
        kernels += [of["Whole_0"]["kernel"]] if name == "video" else []
        fill(module, [k if name == "video" else k[0] for k in kernels])
        with torch.no_grad():
            expected = module(video)
        seen = channels_last(video.numpy())
        found = dis.apply({"params": of}, seen if name == "video" else seen[:, None], key)
        pairs = zip(found, expected, strict=True) if name == "video" else [(found, expected)]
        for a, b in pairs:
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-3, atol=1e-3)


def torch_step():
    gen, videos, images = Generator(), VideoDiscriminator(0.1), ImageDiscriminator(0.1)
    options = {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 1e-5}
    gen_opt = torch.optim.Adam(gen.parameters(), **options)
    dis_opt = torch.optim.Adam([*videos.parameters(), *images.parameters()], **options)
    clips = torch.rand(CLIPS, 3, FRAMES, SIZE, SIZE) * 2 - 1
    stills = torch.rand(IMAGES, 3, SIZE, SIZE) * 2 - 1
    label = torch.randint(CLASSES, (CLIPS,))

    def cross(logits, real):
        target = torch.full_like(logits, float(real))
        return F.binary_cross_entropy_with_logits(logits, target)

    def codes(count):
        kind = torch.randint(CLASSES, (count,))
        noise = torch.randn(count, 50), torch.randn(count, FRAMES + 1, 10)
        return gen.codes(*noise, kind), kind

    def step():
        of_clips, kind = codes(CLIPS)
        of_stills, _ = codes(IMAGES)
        at = torch.randint(FRAMES, (IMAGES,))
        fake, fake_stills = (
            gen(of_clips),
            gen(of_stills[torch.arange(IMAGES), at][:, None])[:, :, 0],
        )
        dis_opt.zero_grad()
        on_real, kinds = videos(clips)
        loss = cross(on_real, 1) + cross(videos(fake.detach())[0], 0)
        loss = loss + F.cross_entropy(kinds, label)
        loss = loss + cross(images(stills), 1) + cross(images(fake_stills.detach()), 0)
        loss.backward()
        dis_opt.step()
        gen_opt.zero_grad()
        for player in (*videos.parameters(), *images.parameters()):
            player.requires_grad_(False)
        on_fake, kinds = videos(fake)
        loss = cross(on_fake, 1) + F.cross_entropy(kinds, kind) + cross(images(fake_stills), 1)
        loss.backward()
        gen_opt.step()
        for player in (*videos.parameters(), *images.parameters()):
            player.requires_grad_(True)

    return step


def our_step():
    gen, dis = networks(0.1)
    adam = optax.chain(optax.add_decayed_weights(1e-5), optax.adam(2e-4, 0.5, 0.999))
    players = common.Players(gen, dis, adam, adam)
    init = functools.partial(mocogan.init, players=players, frames=FRAMES)
    state = jax.jit(init, static_argnums=0)(0)
    step = functools.partial(
        mocogan.step, players=players, loss="non_saturating", clip_every=IMAGES // CLIPS,
        categories=1.0, infogan=1.0, ema_decay=lambda step: 0.0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batch = {
        "video": jnp.asarray(rng.integers(0, 256, (IMAGES, FRAMES, SIZE, SIZE, 3), np.uint8)),
        "index": jnp.arange(IMAGES, dtype=jnp.int32),
        "label": jnp.arange(IMAGES, dtype=jnp.int32) % CLASSES,
    }
    program = jax.jit(step, donate_argnums=0)

    def run():
        nonlocal state
        state, _ = program(state, batch)
        jax.block_until_ready(state)

    return run


def best(run, times=4):
    run()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return min(took)


def test_a_step_and_a_sample_take(capsys):
    took = {"vidgen": best(our_step()), "PyTorch": best(torch_step())}
    gen, dis = networks(0.1)
    params, _ = parameters(gen, dis)
    meta = {"classes": ["a", "b", "c"], "fps": 25.0}
    sampler = sampling.from_generator(gen, params, meta, 0, batch=CLIPS)
    latents = sampler.latents(range(CLIPS), FRAMES)
    theirs = Generator().eval()

    def sample():
        noise = torch.randn(CLIPS, 50), torch.randn(CLIPS, FRAMES + 1, 10)
        with torch.no_grad():
            made = theirs(theirs.codes(*noise, torch.zeros(CLIPS, dtype=torch.long)))
            return ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()

    frames = {
        "vidgen": best(lambda: sampler.decode(latents, FRAMES)),
        "PyTorch": best(sample),
    }
    with capsys.disabled():
        print()
        for name in took:
            rate = CLIPS * FRAMES / frames[name]
            print(f"{name:8s} {took[name]:6.2f} s a step  {rate:7.0f} frames/s sampled")
        print(f"{took['PyTorch'] / took['vidgen']:.2f} times as fast in training, "
              f"{frames['PyTorch'] / frames['vidgen']:.2f} in sampling")  # fmt: skip
