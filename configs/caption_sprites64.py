"""Game sprites by their captions: "a red haired figure in a blue sweater walks to the left".

    vidgen train  --config=configs/caption_sprites64.py --config.data.path=FOLDER --workdir=RUN
    vidgen sample RUN --caption="someone with green hair casts a spell, facing us" --seeds=0:4

Not trained again since captions are read by words. By bytes, before, 36,000 clips took 22 minutes
of one CPU core and made figures of crude outline with the hair, clothes and direction that are
asked for, and not the action (docs/conditions.md).

As configs/sprites64.py, but that captions beside the clips (docs/data.md) say what they show, and
no class does.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of sprites by captions."""
    config = base()
    config.data.update(frames=16, size=64, pick=3, labels="none")
    config.conditions = ConfigDict({"caption": {"width": 96, "drop": 0.1}})
    config.generator.update(widths=(128, 96, 48, 24, 16), head=16, palette=24, output="leaky")
    config.generator.feature_bound = 32.0
    config.generator.update(style=128, motion=0, periods=(6, 7, 8), tempo_range=0.0)
    config.generator.update(gaits="one", harmonics=3)
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "unfold": (2,), "change": 3.0, "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.5, 0.2)
    config.objective.augmentations = ("shift", "brightness")
    config.objective.augment_p = constant(0.3)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.optimizer.warmup_kclips = 0.8
    config.training.update(
        kclips=48.0,
        batch_size=8,
        ema_kclips=2.0,
        log_kclips=0.4,
        sample_kclips=6.0,
        save_kclips=6.0,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
