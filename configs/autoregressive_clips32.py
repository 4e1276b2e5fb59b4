"""A transformer on codes of real clips at 32x32: one line of the table in docs/families.md.

    vidgen train --config=configs/autoregressive_clips32.py --config.data.path=FOLDER --workdir=RUN

Every second frame of people: `--config.data.stride=2`.

Not measured since the method stands on its codec; the earlier form made people who bend, jump and
wave as their class says in four minutes of one CPU core.
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of real clips by codes."""
    config = base("autoregressive")
    config.data.update(frames=16, size=32, pick=1)
    config.generator.update(window=4, width=128, heads=4, expand=4, layers=4)
    config.generator.update(temperature=0.9, top_p=0.9)
    config.objective.codec_kclips = 30.0
    config.optimizer.codec_learning_rate = cosine(2e-3, 0.0)
    config.optimizer.learning_rate = cosine(2e-3, 0.0)
    config.optimizer.warmup_kclips = 0.5
    config.training.update(
        kclips=44.8,
        batch_size=16,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=0.0,
        save_kclips=30.0,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
