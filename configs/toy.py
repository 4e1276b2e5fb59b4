"""The demo: 32x32 toy clips, one disc or square that bounces.

    vidgen train --config=configs/toy.py --workdir=runs/toy

Expected: under five minutes on two CPU cores; 90 to 97 % of the clips pass the check of
`vidgen evaluate RUN --metrics=toy`, half of them discs, half squares. docs/benchmarks.md has how,
and what was tried.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of the demo."""
    config = base()
    config.data.update(path="toy", frames=8, size=32, pick=3)
    # Two colours, for that is what toy clips have; real clips want dozens. What bounces between
    # walls repeats itself, up and down and from side to side: two cycles, and no noise. With
    # tempo_range 1 and change 1 more tracks jumped: cycles could be faster than objects are.
    config.generator.update(widths=(96, 64), head=32, palette=2, style=128)
    config.generator.update(motion=0, periods=(40, 40), tempo_range=0.5, gaits="strengths")
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (1, 4), "width": 32, "change": 3.0, "group": 8}
    )
    config.objective.r1 = constant(5.0)
    config.objective.r2 = constant(5.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.6, 0.2)
    # Without it some seeds made objects that are too fast.
    config.objective.gap_mismatch = constant(0.3)
    config.optimizer.learning_rate = cosine(1e-3, 0.0)
    config.training.update(
        kclips=26.0,
        batch_size=8,
        ema_kclips=0.3,
        log_kclips=0.2,
        sample_kclips=5.0,
        save_kclips=5.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
