"""One coloured shape on black along a curve, 64x64: 1000 clips in two classes.

    vidgen train --config=configs/shapes64.py --config.data.path=FOLDER --workdir=runs/shapes64

Expected: not trained to its end yet; the layout is that of the demo at twice the size.
"""

from vidgen.config import base, cosine


def get_config():
    """Returns the config of moving shapes."""
    config = base()
    config.data.update(frames=16, size=64)
    config.generator.update(widths=(128, 96, 48), head=24, palette=4, stride=8, style=128)
    config.discriminator.update(
        patch=4, front=48, neck=32, frame_blocks=0, fold=16, widths=(64, 96, 128)
    )
    config.objective.r1 = cosine(5.0, 0.5)
    config.objective.r2 = cosine(5.0, 0.5)
    config.objective.mismatch = cosine(1.0, 0.0)
    config.optimizer.learning_rate = cosine(1e-3, 0.0)
    config.training.update(
        kclips=12.0,
        batch_size=8,
        ema_kclips=0.5,
        log_kclips=0.2,
        sample_kclips=1.5,
        save_kclips=1.5,
    )
    config.sampling.update(frames=32, clips=16)
    return config
