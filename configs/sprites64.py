"""Game sprites at 64x64 that walk, cast and slash: 576 clips in nine classes.

    vidgen train --config=configs/sprites64.py --config.data.path=FOLDER --workdir=runs/sprites64

Expected: 40 minutes on one CPU core (30.4 clips/s): figures with faces, drawn hair and clothes that
face as their class says and step, slash and cast in cycles; backgrounds are slightly mottled, and
classes choose cycles of 6 or 7 frames that are not always theirs. After a quarter of it figures
have faces and flat hair. A picture is in docs/benchmarks.md.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of walking sprites."""
    config = base()
    config.data.update(frames=16, size=64, pick=3)
    # Drawings have few colours, each of them quite flat: a palette, which keeps them from frame to
    # frame. Bounded by "tanh", it had got stuck under the residual discriminator.
    config.generator.update(widths=(128, 96, 48, 24, 16), head=16, palette=24, output="leaky")
    # Without a bound, features grew until each pixel had one entry of the palette for good.
    config.generator.feature_bound = 32.0
    # Cycles alone move: with noise beside them, or a tempo that is learnt, they did not close.
    config.generator.update(style=128, motion=0, periods=(6, 7, 8), tempo_range=0.0)
    config.generator.update(gaits="one", harmonics=3)
    # Means of 2x2 pixels, instead of all four, left what is drawn by single pixels blurred.
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "unfold": (2,), "change": 3.0, "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.3, 0.0)
    config.objective.augmentations = ("shift", "brightness")
    config.objective.augment_p = constant(0.3)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.optimizer.warmup_kclips = 0.8
    config.training.update(
        kclips=72.0,
        batch_size=8,
        ema_kclips=2.0,
        log_kclips=0.4,
        sample_kclips=5.0,
        save_kclips=5.0,
        watch_kclips=5.0,
    )
    config.sampling.update(frames=16, clips=18)
    return config
