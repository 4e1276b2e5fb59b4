"""Game sprites at 64x64 that walk, cast and slash, by transformers.

    vidgen train --config=configs/transformer_sprites64.py --config.data.path=FOLDER \\
        --workdir=runs/transformer-sprites64

Clips and losses are those of configs/sprites64.py, but penalties start 6 times as heavy (strong, as
in configs/transformer_toy.py; what that does here was not tried). Generator and discriminator
attend among the patches of a frame and among frames, where those have convolutions. There are no
cycles: what repeats must come from motion noise.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of walking sprites by transformers."""
    config = base()
    config.data.update(frames=16, size=64, pick=3)
    config.generator = ConfigDict(
        {
            "kind": "transformer",
            "patch": 8,
            "grid": 4,
            "width": 128,
            "heads": 4,
            "expand": 2,
            "time_layers": 1,
            "window": 3,
            "layout_layers": 1,
            "space_layers": 3,
            "unfold": 4,
            "head": 16,
            "head_layers": 1,
            "palette": 0,
            "output": "leaky",
            "content": 64,
            "motion": 32,
            "style": 128,
            "stride": 8,
        }
    )
    config.discriminator = ConfigDict(
        {
            "kind": "transformer",
            "patch": 8,
            "front": 16,
            "fold": 1,
            "width": 96,
            "heads": 3,
            "expand": 2,
            "layers": 2,
            "features": 256,
        }
    )
    config.objective.r1 = cosine(120.0, 2.0)
    config.objective.r2 = cosine(120.0, 2.0)
    config.objective.mismatch = cosine(0.3, 0.0)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.training.update(
        kclips=22.0,
        batch_size=8,
        ema_kclips=0.8,
        log_kclips=0.4,
        sample_kclips=2.4,
        save_kclips=2.4,
        watch_kclips=2.4,
    )
    config.sampling.update(frames=16, clips=18)
    return config
