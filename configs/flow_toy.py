"""The demo by flow in the latents of a codec: 32x32 toy clips, one disc or square that bounces.

vidgen train --config=configs/flow_toy.py --workdir=runs/flow-toy
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of the demo by flow."""
    config = base("flow")
    # 16 frames: attention in time reaches four pairs of frames before and after.
    config.data.update(path="toy", frames=16, size=32, pick=1)
    config.generator.update(encoder_widths=(64,), widths=(32, 64), width=128, heads=4, layers=4)
    config.objective.codec_kclips = 24.0
    config.optimizer.codec_learning_rate = cosine(2e-3, 0.0)
    config.optimizer.learning_rate = cosine(2e-3, 0.0)
    config.optimizer.update(clip=1.0, warmup_kclips=0.4)
    config.training.update(
        kclips=60.0,
        batch_size=16,
        ema_kclips=1.0,
        log_kclips=0.4,
        sample_kclips=6.0,
        save_kclips=6.0,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
