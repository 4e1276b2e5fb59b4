"""A start for your own folder of clips: 256x256, 16 frames, eight GPUs.

    pip install -e ".[features]"     # what photographs are told by, 19 MB
    vidgen train --config=configs/clips256.py --config.data.path=FOLDER --workdir=runs/mine

Expected: untried; nothing of it has been trained. Networks and schedules are those of clips128 with
one more level on either side. What a step takes was reckoned (docs/scaling.md); `--dry-run` says
what it takes of your devices. On one GPU add `--config.parallel.microbatches=8`.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of a user's own clips at 256x256."""
    config = base()
    config.data.update(frames=16, stride=0, short="loop", size=256, pick=3, looks=4)
    config.generator.update(
        widths=(384, 384, 256, 192, 96, 48), head=32, palette=0, stride=4, style=384, periods=(12,)
    )
    config.generator.feature_bound = 32.0  # without it they grow
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (4, 16), "taps": (4, 8, 16, 32), "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.15, 0.0)
    config.objective.augmentations = ("shift", "brightness", "cutout")
    config.objective.augment_p = constant(0.6)
    config.optimizer.learning_rate = cosine(5e-4, 0.0)
    config.optimizer.warmup_kclips = 10.0
    config.parallel.update(mode="mesh", compute="bfloat16")
    config.training.update(
        kclips=2000.0,
        batch_size=64,
        ema_kclips=10.0,
        log_kclips=1.0,
        sample_kclips=50.0,
        save_kclips=50.0,
        watch_kclips=50.0,
    )
    config.sampling.update(frames=64, clips=16)
    return config
