"""Human actions at 64x64 by codes, which go on from frames that are known.

    vidgen train  --config=configs/autoregressive_actions64.py --config.data.path=DATA --workdir=RUN
    vidgen sample RUN --known=clip.mp4 --known_at=0:4 --frames=32    # goes on from four frames

Not measured yet: tried for 1,600 clips, of which 960 for the codec (22 clips/s on one core). That
is far too few for more than to see that it trains and that what is known comes back.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of people by codes."""
    config = base("autoregressive")
    config.data.update(frames=16, stride=2, size=64, pick=1, flip=True)
    config.conditions = ConfigDict({"frames": {"modes": ("start",), "whole": True}})
    config.generator.update(window=4, temperature=0.9, top_p=0.9)
    config.objective.update(codec_kclips=24.0, perceptual=0.2)
    config.optimizer.codec_learning_rate = cosine(2e-3, 0.0)
    config.optimizer.learning_rate = cosine(2e-3, 0.0)
    config.optimizer.warmup_kclips = 0.5
    config.training.update(
        kclips=40.0,
        batch_size=16,
        ema_kclips=0.5,
        log_kclips=0.4,
        sample_kclips=8.0,
        save_kclips=8.0,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
