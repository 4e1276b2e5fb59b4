"""Toy clips by their captions: "a red disc moves to the left".

    vidgen train  --config=configs/caption_toy.py --workdir=runs/words
    vidgen sample runs/words --caption="a small blue square" --out=blue.png

Expected: 10 to 25 minutes on one CPU core: objects of the colour that is asked for; disc and square
are not told apart, and no direction is obeyed (docs/conditions.md).
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of toy clips by captions."""
    config = base()
    config.data.update(path="toy", frames=8, size=32, pick=3, labels="none")
    config.conditions = ConfigDict({"caption": {"width": 96, "drop": 0.1}})
    config.generator.update(widths=(96, 64), head=32, palette=2, style=128)
    config.generator.update(motion=0, periods=(40, 40), tempo_range=0.5, gaits="strengths")
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (1, 4), "width": 32, "change": 3.0, "group": 8}
    )
    config.objective.r1 = constant(5.0)
    config.objective.r2 = constant(5.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.6, 0.3)
    config.objective.gap_mismatch = constant(0.3)
    config.optimizer.learning_rate = cosine(1e-3, 0.0)
    config.training.update(
        kclips=40.0,
        batch_size=8,
        ema_kclips=0.3,
        log_kclips=0.2,
        sample_kclips=5.0,
        save_kclips=5.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
