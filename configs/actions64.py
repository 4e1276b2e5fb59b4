"""Human actions at 64x64 (wave, jump, bend): short clips in four class folders, as MoCoGAN's.

    vidgen train --config=configs/actions64.py --config.data.path=FOLDER --workdir=runs/actions64

Expected: 38 minutes on one CPU core (10.7 clips/s): people who bend, jump and wave, each as its
class says; outlines shimmer, clothes may change colour. A picture is in docs/benchmarks.md.
"""

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of figures that wave."""
    config = base()
    config.data.update(frames=16, stride=2, size=64, pick=3)
    config.generator.update(
        widths=(128, 96, 48, 24), head=16, palette=0, stride=4, style=128, periods=(12,)
    )
    config.discriminator.update(
        patch=2, front=24, neck=48, frame_blocks=1, fold=3, widths=(64, 96, 128)
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.mismatch = cosine(0.5, 0.0)
    config.objective.augmentations = ("shift", "brightness")
    config.objective.augment_p = constant(0.3)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.training.update(
        kclips=24.0,
        batch_size=8,
        ema_kclips=0.8,
        log_kclips=0.4,
        sample_kclips=2.4,
        save_kclips=2.4,
        watch_kclips=2.4,
    )
    config.sampling.update(frames=16, clips=16)
    return config
