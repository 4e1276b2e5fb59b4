"""The demo by a transformer on codes: 32x32 toy clips, one disc or square that bounces.

    vidgen train --config=configs/autoregressive_toy.py --workdir=runs/autoregressive-toy

Measured with a third of the clips (`--config.objective.codec_kclips=24` and
`--config.training.kclips=44`; 277 s of steps on one CPU core of two, the other busy): discs and
squares that glide, 18 % of which pass the check of `vidgen evaluate RUN --metrics=toy`; of 64 % the
colour changes from frame to frame, for each place has its own code of it. (The earlier form, whose
autoencoder mixed two colours of a frame as a whole, had 69 %.)
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of the demo by codes."""
    config = base("autoregressive")
    config.data.update(path="toy", frames=8, size=32, pick=1)
    config.generator.update(window=4, width=128, heads=4, expand=4, layers=4)
    config.generator.update(temperature=0.8, top_p=0.8)
    config.objective.codec_kclips = 72.0
    config.optimizer.codec_learning_rate = cosine(2e-3, 0.0)
    config.optimizer.learning_rate = cosine(2e-3, 0.0)
    config.optimizer.warmup_kclips = 0.5
    config.training.update(
        kclips=132.0,
        batch_size=16,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=0.0,
        save_kclips=72.0,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
