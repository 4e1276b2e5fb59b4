"""The variational autoencoder on real clips at 32x32: one line of the table in docs/families.md.

    vidgen train --config=configs/vae_clips32.py --config.data.path=FOLDER --workdir=RUN

Every second frame of people: `--config.data.stride=2`.

Measured, six minutes of one CPU core: blurred people, upright or bent, that move half as much as
real ones; blurred sprites; shapes that can hardly be seen.
"""

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of real clips by the autoencoder."""
    config = base("vae")
    config.data.update(frames=16, size=32, pick=4)
    config.generator.update(
        widths=(128, 96, 48), head=24, palette=0, output="leaky", style=128, stride=4
    )
    config.generator.update(content=32, motion=8, encoder_widths=(64, 96), features=128)
    config.objective.scale = 0.5
    config.objective.beta = cosine(0.0, 1.0, 3.0)
    config.optimizer.learning_rate = cosine(2e-3, 0.0)
    config.optimizer.b2 = constant(0.99)
    config.training.update(
        kclips=13.0,
        batch_size=16,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=0.0,
        save_kclips=4.0,
        watch_kclips=4.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
