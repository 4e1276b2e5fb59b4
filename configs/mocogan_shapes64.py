"""MoCoGAN with its published constants on moving shapes: an experiment of its paper.

    vidgen train --config=configs/mocogan_shapes64.py --config.data.path=FOLDER --workdir=RUN

As configs/mocogan_actions64.py is, and like that one not trained to its 100,000 steps.
"""

from vidgen.methods import base


def get_config():
    """Returns the config of MoCoGAN on moving shapes."""
    config = base("mocogan")
    config.data.update(frames=16, size=64)
    config.training.update(
        kclips=1200.0,
        batch_size=12,
        log_kclips=1.2,
        sample_kclips=12.0,
        save_kclips=12.0,
        watch_kclips=12.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
