"""Game sprites at 64x64 that walk, cast and slash: 576 clips in nine classes.

    vidgen train --config=configs/sprites64.py --config.data.path=FOLDER --workdir=runs/sprites64

Expected: nothing good yet. After 600 clips heads and bodies, and no better after 1,200
(docs/benchmarks.md has what was tried).
"""

from vidgen.config import base, cosine


def get_config():
    """Returns the config of walking sprites."""
    config = base()
    config.data.update(frames=16, size=64)
    config.generator.update(widths=(128, 96, 64, 32), head=16, palette=16, stride=4, style=128)
    config.discriminator.update(
        patch=4, front=48, neck=32, frame_blocks=0, fold=16, widths=(64, 96, 128)
    )
    config.objective.r1 = cosine(8.0, 1.0)
    config.objective.r2 = cosine(8.0, 1.0)
    config.objective.mismatch = cosine(0.3, 0.0)
    config.optimizer.learning_rate = cosine(5e-4, 0.0)
    config.training.update(
        kclips=5.0,
        batch_size=4,
        ema_kclips=0.5,
        log_kclips=0.2,
        sample_kclips=0.8,
        save_kclips=0.8,
    )
    config.sampling.update(frames=16, clips=18)
    return config
