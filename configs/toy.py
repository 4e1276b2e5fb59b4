"""The demo: 32x32 toy clips, one disc or square that bounces.

    vidgen train --config=configs/toy.py --workdir=runs/toy

Expected: under five minutes on two CPU cores; 73 % of the clips pass the check of
`vidgen evaluate RUN --metrics=toy`, half of them discs, half squares. docs/benchmarks.md has how,
and what was tried.
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of the demo."""
    config = base()
    config.data.update(path="toy", frames=8, size=32)
    # Two colours, for that is what toy clips have; real clips want dozens.
    config.generator.update(widths=(96, 64), head=32, palette=2, style=128, stride=12)
    config.discriminator.update(
        patch=2, front=24, neck=48, frame_blocks=1, fold=8, widths=(96, 128), frame_features=128
    )
    config.objective.r1 = cosine(5.0, 0.7)
    config.objective.r2 = cosine(5.0, 0.7)
    config.objective.mismatch = cosine(0.6, 0.2)
    config.optimizer.learning_rate = cosine(1e-3, 0.0)
    config.training.update(
        kclips=7.0,
        batch_size=8,
        ema_kclips=0.3,
        log_kclips=0.08,
        sample_kclips=4.0,
        save_kclips=4.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
