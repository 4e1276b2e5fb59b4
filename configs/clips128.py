"""A start for your own folder of clips: 128x128, 16 frames, one GPU.

    vidgen train --config=configs/clips128.py --config.data.path=FOLDER --workdir=runs/mine

Expected: not measured on a GPU yet. Look at the samples after 200 kclips; if the figures fall
apart or the run stops with a NaN, raise config.objective.r1.start and r2.start; if they stay
blurred, lower them. With fewer than about 2,000 clips, keep the augmentations on.
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of a user's own clips."""
    config = base()
    config.data.update(frames=16, pick=4, fps=12.5, size=128, crop="random", flip=True)
    config.generator.update(
        widths=(512, 384, 256, 128), blocks=2, style=384, head=48, head_layers=2, stride=4,
        motion_layers=2, palette=0,
    )  # fmt: skip
    config.discriminator.update(
        widths=(192, 384, 512), blocks=2, patch=4, front=64, neck=64, fold=4, features=512
    )
    config.objective.r1 = cosine(100.0, 10.0, kclips=500.0)
    config.objective.r2 = cosine(100.0, 10.0, kclips=500.0)
    config.objective.augmentations = ("flip", "shift", "brightness", "contrast", "saturation")
    config.objective.augment_p = cosine(0.0, 0.3, kclips=500.0)
    config.optimizer.learning_rate = cosine(2e-4, 5e-5, kclips=2000.0)
    config.optimizer.warmup_kclips = 5.0
    config.optimizer.b2 = cosine(0.9, 0.99, kclips=500.0)
    config.parallel.compute = "bfloat16"
    config.training.update(
        kclips=5000.0,
        batch_size=32,
        ema_kclips=10.0,
        log_kclips=1.0,
        sample_kclips=50.0,
        save_kclips=100.0,
    )
    config.sampling.update(frames=64, clips=16)
    return config
