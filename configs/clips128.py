"""A start for your own folder of clips at 128x128, 16 frames, one GPU.

    pip install -e ".[features]"     # what photographs are told by, 19 MB
    vidgen train --config=configs/clips128.py --config.data.path=FOLDER --workdir=runs/mine

The recipe of configs/clips64.py, whose text tells what to change, with one level more on either
side.

Expected: untried at this length. In a trial of narrower networks on an H200, in batches of 8, 166
clips of natural128 had layouts and colours and no things after 18,000 clips. Look at the samples
after 100 kclips; if the figures fall apart or the run stops with a NaN, raise
config.objective.r1.start and r2.start; if they stay blurred, lower them.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of a user's own clips at 128x128."""
    config = base()
    config.data.update(frames=16, stride=0, short="loop", size=128, pick=3, looks=4)
    config.generator.update(
        widths=(384, 256, 192, 96, 48), head=32, palette=0, stride=4, style=384, periods=(12,)
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
    config.optimizer.warmup_kclips = 5.0
    config.parallel.compute = "bfloat16"
    config.training.update(
        kclips=1000.0,
        batch_size=32,
        ema_kclips=5.0,
        log_kclips=1.0,
        sample_kclips=20.0,
        save_kclips=20.0,
        watch_kclips=20.0,
    )
    config.sampling.update(frames=64, clips=16)
    return config
