"""The demo by the textbooks' GAN: 32x32 toy clips of 8 frames, by 3D convolutions.

    vidgen train --config=configs/dcgan_toy.py --workdir=runs/dcgan-toy

Measured: 670 s of steps on one CPU core. Coloured spots that move, with the checkerboards of
transposed convolutions; no clip passes the check of `vidgen evaluate RUN --metrics=toy`.
"""

from vidgen.methods import base


def get_config():
    """Returns the config of the demo by the textbooks' GAN."""
    config = base("dcgan")
    config.data.update(path="toy", frames=8, size=32)
    config.generator.update(content=64, features=32)
    config.discriminator.update(features=32)
    config.training.update(
        kclips=36.0,
        batch_size=32,
        ema_kclips=0.5,
        log_kclips=0.32,
        sample_kclips=12.0,
        save_kclips=12.0,
        watch_kclips=12.0,
    )
    config.sampling.update(frames=8, clips=16)
    return config
