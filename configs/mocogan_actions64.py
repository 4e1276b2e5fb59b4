"""MoCoGAN with its published constants on human actions: the experiment of its paper.

    vidgen train --config=configs/mocogan_actions64.py --config.data.path=FOLDER --workdir=RUN

As published but for what stands in vidgen/methods/mocogan.py: batches of 10 images and 3 clips
become 12 and 3. 100,000 of its steps are 1,200 kclips.

Measured after 33 of them, an hour on one CPU core beside other work: checkered dark figures that
hold out an arm and hardly move, FVD 1285 (docs/benchmarks.md).
"""

from vidgen.methods import base


def get_config():
    """Returns the config of MoCoGAN's experiment on actions."""
    config = base("mocogan")
    config.data.update(frames=16, stride=2, size=64)
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
