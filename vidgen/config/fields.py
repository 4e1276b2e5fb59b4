"""Every field of a config with its default, for each method its own.

Durations are in thousands of clips seen (kclips). A schedule is `constant(value)` or
`cosine(start, end, kclips)`.
"""

from typing import Any

from ml_collections import ConfigDict


def constant(value: float) -> dict[str, float]:
    """Returns a schedule that stays at one value."""
    return {"start": value, "end": value, "kclips": 0.0}


def cosine(start: float, end: float, kclips: float = 0.0) -> dict[str, float]:
    """Returns a schedule from `start` to `end` over `kclips` (0: the whole training), then flat."""
    return {"start": start, "end": end, "kclips": kclips}


def base(method: str = "gan") -> Any:
    """Returns the config that every experiment of a method starts from, a ConfigDict.

    Args:
      method: A name in `METHODS`. Its sections are its own: no method has a field that it does not
        read.
    """
    config = ConfigDict()
    config.seed = 0  # everything random follows from it: parameters, noise, order of the clips
    config.method = method  # a module of vidgen/methods

    config.data = ConfigDict(
        {
            "path": "",  # folder, archive, array, manifest, pack, or "toy"; docs/data.md
            "frames": 16,  # length of a training window
            "stride": 1,  # take every n-th frame; 0: chosen by the clips (docs/data.md)
            "pick": 0,  # frames drawn from each window for a training step; 0: all
            "fps": 0.0,  # resample to this rate by true time stamps; 0: every frame as recorded
            "size": 64,  # side of the frames in pixels
            "crop": "center",  # "center" or "random": where the square is cut from wider frames
            "flip": False,  # mirror half of the clips left to right
            "labels": "folder",  # "folder": class = first-level folder; "none": one class for all
            "short": "skip",  # clips shorter than the window: "skip" them or "loop" their frames
            "background": (0, 0, 0),  # RGB under transparent pixels
            "strict": False,  # stop at the first file that cannot be used
            "cache": "",  # where packs are kept; "": $VIDGEN_CACHE or ~/.cache/vidgen
            "workers": 2,  # processes that decode
            "limits": {  # a file beyond any of these is refused, by name
                "frames": 100_000,  # frames of a file
                "pixels": 50_000_000,  # pixels of a frame
                "bytes": 4_000_000_000,  # bytes of a file's frames at the packed size
                "seconds": 120.0,  # seconds that decoding a file may take
            },
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "adam",  # adam, adamw, rmsprop, adadelta, sgd
            "learning_rate": constant(2e-4),
            "warmup_kclips": 0.0,  # the learning rate rises linearly from 0
            "b1": 0.0,  # adam, adamw; momentum of rmsprop and sgd
            "b2": constant(0.99),  # adam, adamw; decay of rmsprop (its start), rho of adadelta
            "weight_decay": 0.0,  # adamw
            "l2": 0.0,  # times each parameter, added to its gradient
            "clip": 0.0,  # largest norm of all gradients of an update; 0: any
        }
    )
    config.training = ConfigDict(
        {
            "kclips": 1000.0,  # length of the training
            "batch_size": 16,  # clips of a step, over all devices
            "ema_kclips": 5.0,  # half-life of the averaged generator
            "ema_rampup": 0.1,  # at most this share of the clips seen, so that early ones fade
            "log_kclips": 1.0,  # between lines of metrics.jsonl
            "sample_kclips": 50.0,  # between sample videos; 0: only at the end
            "save_kclips": 50.0,  # between checkpoints; 0: only at the end
            "watch_kclips": 50.0,  # between looks at samples, for figures and alarms; 0: none
            "keep": 3,  # newest checkpoints kept
            "keep_best": "",  # a figure of the looks, as "distance": the best checkpoint stays, too
            "full_disk": "stop",  # no space for a checkpoint: "stop", or "continue" without it
        }
    )
    config.parallel = ConfigDict(
        {
            "mode": "jit",  # jit (one device), mesh, pmap
            "data": 0,  # mesh: copies of the state, each trained on its part of the clips; 0: all
            "fsdp": 1,  # mesh: devices that share one copy
            "microbatches": 1,  # parts of a device's clips, one after another, for less memory
            "remat": (),  # "generator", "discriminator": compute features again, for less memory
            "dispatch": 1,  # steps of one call, for small models on fast devices
            "deterministic": False,  # the same bits on any number of devices (mesh, pmap)
            "shards": 8,  # deterministic: parts of a batch; a multiple of any number of devices
            "distributed": False,  # several processes, as the cluster's environment says
            "compute": "float32",  # or bfloat16; parameters are float32 in both
        }
    )
    config.sampling = ConfigDict(
        {
            "frames": 32,  # length of the sample videos
            "clips": 16,  # how many, seeds 0, 1, 2, ...
            "fps": 0.0,  # 0: that of the data
        }
    )
    for name, section in METHODS[method]().items():
        before: Any = config.get(name, {})
        config[name] = ConfigDict({**before, **section})
    return config


def _gan() -> dict[str, Any]:
    generator = {
        "kind": "residual",  # a name in vidgen/models GENERATORS; the rest are its arguments
        "widths": (192, 128, 96),  # channels of each level, 4x4 first, then 8x8, ...
        "blocks": 1,  # residual blocks of each level
        "head": 32,  # channels of the pointwise layers at full resolution
        "head_layers": 1,  # how many of them
        "palette": 16,  # colours that a clip mixes its pixels from
        "output": "tanh",  # without a palette: "tanh", "leaky", or "linear" for black grounds
        "content": 64,  # channels of the content noise
        "motion": 32,  # channels of the motion noise
        "style": 192,  # channels of the features that steer the network
        "stride": 8,  # frames between keyframes of motion noise
        "motion_layers": 1,  # temporal convolutions over the keyframes
        "periods": (),  # frames of cycles for what repeats; content bends them by an octave
    }
    discriminator = {
        "kind": "residual",  # a name in vidgen/models DISCRIMINATORS
        "patch": 2,  # side in pixels of the patches that the front sees
        "front": 24,  # channels of the front
        "neck": 48,  # channels of a frame before frames are folded together
        "frame_blocks": 1,  # residual blocks over each frame
        "fold": 8,  # frames folded together; divides data.frames, or data.pick
        "widths": (96, 128, 192),  # channels of each level, finest first, down to 4x4
        "blocks": 1,  # residual blocks of each level
        "features": 256,  # width of the last layer
        "frame_features": 128,  # width of each frame's own features beside it; 0: none
    }
    objective = {
        "loss": "rpgan",  # a name in vidgen/objectives LOSSES
        "r1": constant(1.0),  # weight of the penalty on real clips; sums over pixels
        "r2": constant(1.0),  # weight of the penalty on generated clips
        "penalty_interval": 1,  # penalties every n-th step, n times as heavy
        "penalty_sigma": 0.0,  # penalties by finite differences of this length; 0: by gradients
        "discriminator_steps": 1,  # updates of the discriminator for one of the generator
        "spectral": False,  # no singular value of the discriminator's kernels above one
        "mismatch": constant(0.0),  # weight of real clips with a wrong label as fakes
        "augmentations": (),  # names in vidgen/augment AUGMENTATIONS
        "augment_p": constant(0.0),  # probability of each
    }
    return {
        "generator": generator,
        "discriminator": discriminator,
        "objective": objective,
        "optimizer": _TWO_PLAYERS,
    }


_TWO_PLAYERS = {
    "discriminator_rate": 1.0,  # the discriminator's learning rate over the generator's
}


def _mocogan() -> dict[str, Any]:
    """Returns the constants of the published code, but for the size of a batch."""
    generator = {
        "kind": "mocogan",
        "content": 50,  # channels of the content code
        "motion": 10,  # channels of the motion noise and of the recurrent state
        "features": 64,  # channels of the last but one layer; 8 times as many in the first
        "norm_clips": 0,  # clips that share statistics; 0: the whole batch
    }
    discriminator = {
        "kind": "mocogan",
        "features": 64,  # channels of the first layer
        "image": "patch",  # the image discriminator: "patch", or "whole" frames
        "noise": 0.1,  # deviation of the noise on the input of each convolution
        "norm_clips": 0,  # clips that share statistics; 0: the whole batch
    }
    objective = {
        "loss": "non_saturating",  # a name in vidgen/objectives LOSSES
        "clip_every": 4,  # every n-th clip of a batch is judged whole; of each, one frame
        "categories": 1.0,  # weight of the video discriminator's cross-entropy on real clips
        "infogan": 1.0,  # weight of the generator's cross-entropy, by the video discriminator
    }
    return {
        "generator": generator,
        "discriminator": discriminator,
        "objective": objective,
        "optimizer": {**_TWO_PLAYERS, "b1": 0.5, "b2": constant(0.999), "l2": 1e-5},
        "training": {"ema_kclips": 0.0},
    }


def _dcgan() -> dict[str, Any]:
    """Returns the constants of DCGAN."""
    generator = {
        "kind": "dcgan",
        "content": 100,  # channels of the latent vector
        "features": 64,  # channels of the last but one layer; twice as many in each before it
        "rise": "transposed",  # how layers double: "transposed" convolutions, or "resize"
        "norm": True,  # batch normalisation
        "norm_clips": 0,  # clips that share statistics; 0: the whole batch
    }
    discriminator = {
        "kind": "dcgan",
        "features": 64,  # channels of the first layer; twice as many in each after it
        "norm": True,  # batch normalisation
        "norm_clips": 0,  # clips that share statistics; 0: the whole batch
    }
    objective = {
        "loss": "non_saturating",  # a name in vidgen/objectives LOSSES
        "discriminator_steps": 1,  # updates of the discriminator for one of the generator
        "spectral": False,  # no singular value of the discriminator's kernels above one
    }
    return {
        "generator": generator,
        "discriminator": discriminator,
        "objective": objective,
        "optimizer": {**_TWO_PLAYERS, "b1": 0.5, "b2": constant(0.999)},
    }


def _vae() -> dict[str, Any]:
    gan = _gan()
    generator = {**gan["generator"], "kind": "vae"}
    del generator["periods"]
    generator |= {
        "encoder_widths": (96, 128, 192),  # channels of each level, finest first, down to 4x4
        "features": 192,  # channels of what the encoder keeps of a frame
        "time_layers": 1,  # temporal convolutions over the frames' features
    }
    objective = {
        "reconstruction": "mse",  # "mse" or "l1" about what is made; "cross_entropy"
        "scale": 0.1,  # of the noise that "mse" and "l1" assume, for values in [-1, 1]
        "beta": constant(1.0),  # weight of the KL divergence; 1: the evidence lower bound
        "adversarial": 0.0,  # weight of a discriminator's loss; 0: there is none
        "loss": "non_saturating",  # a name in vidgen/objectives LOSSES
        "r1": constant(1.0),  # weight of the penalty on real clips; sums over pixels
        "r2": constant(1.0),  # weight of the penalty on reconstructed clips
    }
    return {
        "generator": generator,
        "discriminator": gan["discriminator"],
        "objective": objective,
        "optimizer": {**_TWO_PLAYERS, "b1": 0.9, "b2": constant(0.999)},
    }


def _autoregressive() -> dict[str, Any]:
    generator = {
        "kind": "codes",
        "patch": 2,  # side in pixels of the patches that the autoencoder's front sees
        "widths": (48, 96, 128),  # channels of its levels, finest first, down to the map of codes
        "blocks": 1,  # residual blocks of each level
        "summary": 0,  # codes of a frame as a whole, before those of its map
        "palette": 0,  # colours that a frame mixes its pixels from; 0: straight from the features
        "codes": 512,  # vectors of the codebook
        "features": 32,  # channels of each
        "window": 8,  # frames that a code depends on, at most data.frames
        "width": 128,  # channels of the transformer's tokens
        "heads": 4,  # heads of attention; divides the width
        "expand": 4,  # channels inside feed-forward layers over the width
        "layers": 4,  # blocks of attention and a feed-forward layer
        "temperature": 1.0,  # when sampling: logits are divided by it
        "top_k": 0,  # when sampling: only the likeliest codes; 0: all
        "top_p": 1.0,  # when sampling: only the likeliest that together reach this probability
    }
    objective = {
        "codes_kclips": 500.0,  # for the autoencoder; the rest of the training, for the prior
        "distance": "mse",  # of reconstructions: "mse" or "l1"
        "commitment": 0.25,  # weight of the square distance of features from their codes
        "book_kclips": 1.0,  # half-life of the averages that the codebook is made of
        "revive": 0.03,  # share of the mean use below which a code begins anew
    }
    optimizer = {
        "b1": 0.9,
        "b2": constant(0.99),
        "codes_learning_rate": constant(1e-3),  # of the autoencoder; the other, of the transformer
    }
    return {"generator": generator, "objective": objective, "optimizer": optimizer}


# What generator and discriminator of a method may be; of other kinds it could not use the results.
KINDS = {
    "gan": (("residual", "transformer"), ("residual", "transformer")),
    "mocogan": (("mocogan",), ("mocogan",)),
    "dcgan": (("dcgan",), ("dcgan",)),
    "vae": (("vae",), ("residual", "transformer")),
    "autoregressive": (("codes",), ()),
}

METHODS = {
    "gan": _gan,
    "mocogan": _mocogan,
    "dcgan": _dcgan,
    "vae": _vae,
    "autoregressive": _autoregressive,
    # Fitted at once; of the generator's fields they take their own.
    "dynamic_texture": _gan,
    "lookup": _gan,
    "noise": _gan,
    "ppca": _gan,
    "untrained": _gan,
}
