"""Human actions at 64x64 (wave, jump, bend): short clips in four class folders, as MoCoGAN's.

    vidgen train --config=configs/actions64.py --config.data.path=FOLDER --workdir=runs/actions64

Expected: with --config.training.kclips=2.4 (24 minutes on one CPU core, 1.8 clips/s) dark figures
told apart by class, with halos; not yet figures that one sees wave (docs/benchmarks.md).
"""

from vidgen.config import base, constant, cosine


def get_config():
    """Returns the config of figures that wave."""
    config = base()
    config.data.update(frames=16, stride=2, size=64, flip=False)
    config.generator.update(widths=(128, 96, 64, 32), head=16, palette=16, stride=4, style=128)
    config.discriminator.update(
        patch=4, front=48, neck=32, frame_blocks=0, fold=16, widths=(64, 96, 128)
    )
    config.objective.r1 = cosine(40.0, 20.0)
    config.objective.r2 = cosine(40.0, 20.0)
    config.objective.mismatch = cosine(0.3, 0.0)
    config.objective.augmentations = ("shift", "brightness")
    config.objective.augment_p = constant(0.3)
    config.optimizer.learning_rate = cosine(6e-4, 0.0)
    config.training.update(
        kclips=5.0,
        batch_size=4,
        ema_kclips=0.5,
        log_kclips=0.2,
        sample_kclips=0.8,
        save_kclips=0.8,
    )
    config.sampling.update(frames=16, clips=16)
    return config
