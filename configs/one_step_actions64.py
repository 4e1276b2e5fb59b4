"""One evaluation a chunk instead of 20: what a run of configs/flow_actions64.py becomes.

    vidgen train --config=configs/one_step_actions64.py --config.data.path=FOLDER --workdir=RUN
                 --init_from=RUN_OF_FLOW

By distillation alone, ten minutes of one CPU core for 8,000 clips: the samples are nearly those of
the flow from the same seeds. With `--config.training.kclips=13` the discriminator plays for another
5,000 clips: with these rates that made them worse (docs/benchmarks.md).
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of people by one step."""
    config = base("one_step")
    config.data.update(frames=16, stride=2, size=64, pick=4)
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "taps": (4, 8, 16, 32), "width": 32, "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.augmentations = ("shift", "brightness", "cutout")
    config.objective.augment_p = constant(0.6)
    config.objective.distil_kclips = 8.0
    config.optimizer.distil_learning_rate = cosine(5e-4, 5e-5)
    config.optimizer.learning_rate = cosine(1e-4, 0.0)
    config.optimizer.discriminator_rate = 10.0
    config.optimizer.warmup_kclips = 0.8  # of the second phase
    config.training.update(
        kclips=8.0,
        batch_size=8,
        ema_kclips=0.5,
        log_kclips=0.4,
        sample_kclips=0.8,
        save_kclips=0.8,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
