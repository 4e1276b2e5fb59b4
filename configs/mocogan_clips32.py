"""MoCoGAN at half its width on real clips at 32x32: one line of the table in docs/families.md.

    vidgen train --config=configs/mocogan_clips32.py --config.data.path=FOLDER --workdir=RUN

Every second frame of people: `--config.data.stride=2`. As published it is mocogan_actions64.

Measured, five minutes of one CPU core: dark people in grainy noise who bend or wave; one sprite for
all seeds; bright spots of one colour.
"""

from vidgen.methods import base


def get_config():
    """Returns the config of real clips by MoCoGAN."""
    config = base("mocogan")
    config.data.update(frames=16, size=32)
    config.generator.update(features=32)
    config.discriminator.update(features=32)
    config.training.update(
        kclips=25.0,
        batch_size=16,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=0.0,
        save_kclips=4.0,
        watch_kclips=4.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
