"""The demo by MoCoGAN: 32x32 toy clips; networks of half of the published width.

    vidgen train --config=configs/mocogan_toy.py --workdir=runs/mocogan-toy

Measured: 660 s of steps on one CPU core. Coloured spots that move on dark grounds; outlines are too
rough for any clip to pass the check of `vidgen evaluate RUN --metrics=toy`.
"""

from vidgen.methods import base


def get_config():
    """Returns the config of the demo by MoCoGAN."""
    config = base("mocogan")
    config.data.update(path="toy", frames=10, size=32)  # 10: each of three levels takes 3 away
    config.generator.update(features=32)
    config.discriminator.update(features=32)
    config.objective.clip_every = 2
    config.training.update(
        kclips=36.0,
        batch_size=16,
        ema_kclips=0.5,
        log_kclips=0.32,
        sample_kclips=12.0,
        save_kclips=12.0,
        watch_kclips=12.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
