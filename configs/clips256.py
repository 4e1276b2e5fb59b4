"""A start for your own folder of clips: 256x256, 16 frames, eight GPUs.

    vidgen train --config=configs/clips256.py --config.data.path=FOLDER --workdir=runs/mine

Expected: untried; nothing of it has been trained. Widths and schedules are those of clips128 with
one more level on either side, the penalties four times as heavy for four times the pixels. What a
step takes was reckoned (docs/scaling.md); `--dry-run` says what it takes of your devices. On one
GPU add `--config.parallel.microbatches=8`.
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of a user's own clips at 256x256."""
    config = base()
    config.data.update(frames=16, pick=4, fps=12.5, size=256, crop="random", flip=True)
    config.generator.update(
        widths=(512, 512, 384, 256, 128), blocks=2, style=384, head=48, head_layers=2, stride=4,
        motion_layers=2, palette=0,
    )  # fmt: skip
    config.discriminator.update(
        widths=(128, 192, 384, 512), blocks=2, patch=4, front=64, neck=64, fold=4, features=512
    )
    config.objective.r1 = cosine(400.0, 40.0, kclips=1000.0)
    config.objective.r2 = cosine(400.0, 40.0, kclips=1000.0)
    config.objective.augmentations = ("flip", "shift", "brightness", "contrast", "saturation")
    config.objective.augment_p = cosine(0.0, 0.3, kclips=1000.0)
    config.optimizer.learning_rate = cosine(2e-4, 5e-5, kclips=4000.0)
    config.optimizer.warmup_kclips = 10.0
    config.optimizer.b2 = cosine(0.9, 0.99, kclips=1000.0)
    config.parallel.update(mode="mesh", compute="bfloat16")
    config.training.update(
        kclips=10000.0,
        batch_size=64,
        ema_kclips=10.0,
        log_kclips=1.0,
        sample_kclips=100.0,
        save_kclips=200.0,
    )
    config.sampling.update(frames=64, clips=16)
    return config
