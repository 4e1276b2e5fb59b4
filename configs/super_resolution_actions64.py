"""Super-resolution of human actions: 16x16 to 64x64 pixels.

    vidgen train  --config=configs/super_resolution_actions64.py --config.data.path=DATA --workdir=R
    vidgen sample R --video=small.mp4 --seeds=0 --out=large.mp4

Expected: 8 to 12 minutes on one CPU core: outlines of people, also of those that training did not
see, are sharp; faces and the grain of walls are not. docs/conditions.md has figures beside the
cubic enlargement. Other tasks are other options: `--config.conditions.video.scale=1` with
`grey=True`, `blur=1.5` or `noise=20.0`.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of four times as many pixels each way."""
    config = base()
    config.data.update(frames=8, stride=2, size=64, pick=3, labels="none", flip=True)
    config.conditions = ConfigDict({"video": {"scale": 4, "width": 32}})
    # Levels down to every pixel: what is to be found lies there.
    config.generator.update(
        widths=(48, 48, 32, 24, 16), head=16, palette=0, content=8, motion=4, style=64, stride=8
    )
    config.generator.feature_bound = 32.0
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "unfold": (2,), "width": 32, "group": 8}
    )
    config.objective.r1 = constant(10.0)
    config.objective.r2 = constant(10.0)
    config.objective.penalty_interval = 4
    config.objective.update(l1=40.0)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.optimizer.warmup_kclips = 0.4
    config.training.update(
        kclips=12.0,
        batch_size=8,
        ema_kclips=0.5,
        log_kclips=0.2,
        sample_kclips=2.0,
        save_kclips=2.0,
        watch_kclips=4.0,
    )
    config.sampling.update(frames=8, clips=16)
    return config
