"""The GAN of residual networks on real clips at 32x32: one line of the table in docs/families.md.

    vidgen train --config=configs/gan_clips32.py --config.data.path=FOLDER --workdir=RUN

Every second frame of people: `--config.data.stride=2`.

Measured, six minutes of one CPU core: dark people who wave or bend as their class says, in halos;
clean sprites that hardly move; bright streaks instead of shapes. Too short: configs/actions64.py
took 38 minutes.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of real clips by the GAN with one residual discriminator."""
    config = base()
    config.data.update(frames=16, size=32, pick=3)
    config.generator.update(
        widths=(128, 96, 48), head=24, palette=0, output="leaky", style=128, stride=4
    )
    config.discriminator = ConfigDict(
        {"kind": "residual", "patch": 2, "fold": 3, "widths": (96, 128), "frame_features": 128}
    )
    config.objective.r1 = cosine(5.0, 0.5)
    config.objective.r2 = cosine(5.0, 0.5)
    config.objective.mismatch = cosine(0.5, 0.0)
    config.optimizer.learning_rate = cosine(1e-3, 0.0)
    config.training.update(
        kclips=13.0,
        batch_size=8,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=0.0,
        save_kclips=4.0,
        watch_kclips=4.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
