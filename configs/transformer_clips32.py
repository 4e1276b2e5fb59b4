"""The GAN of transformers on real clips at 32x32: one line of the table in docs/families.md.

    vidgen train --config=configs/transformer_clips32.py --config.data.path=FOLDER --workdir=RUN

Every second frame of people: `--config.data.stride=2`.

Measured, six minutes of one CPU core: people with limbs who wave or bend; clean sprites that hardly
move, in front of faint squares; shapes of flat colours, one or two in a frame.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of real clips by the GAN of transformers."""
    config = base()
    config.data.update(frames=16, size=32, pick=3)
    config.generator = ConfigDict(
        {
            "kind": "transformer",
            "patch": 4,
            "grid": 4,
            "width": 96,
            "heads": 2,
            "expand": 2,
            "time_layers": 1,
            "window": 3,
            "layout_layers": 1,
            "space_layers": 2,
            "unfold": 2,
            "head": 24,
            "head_layers": 1,
            "palette": 0,
            "output": "leaky",
            "content": 64,
            "motion": 32,
            "style": 128,
            "stride": 4,
        }
    )
    config.discriminator = ConfigDict(
        {
            "kind": "transformer",
            "patch": 4,
            "front": 24,
            "fold": 1,
            "width": 96,
            "heads": 2,
            "expand": 2,
            "layers": 2,
            "features": 256,
        }
    )
    config.objective.r1 = cosine(20.0, 0.7)
    config.objective.r2 = cosine(20.0, 0.7)
    config.objective.mismatch = cosine(0.5, 0.0)
    config.optimizer.learning_rate = cosine(1e-3, 0.0)
    config.training.update(
        kclips=5.4,
        batch_size=8,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=0.0,
        save_kclips=4.0,
        watch_kclips=4.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
