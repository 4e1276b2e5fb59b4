"""A flow in the latents of a codec, of game sprites at 64x64 that walk, cast and slash.

    pip install -e ".[features]"     # what the codec's pictures are compared by, 19 MB
    vidgen train --config=configs/flow_sprites64.py --config.data.path=FOLDER --workdir=RUN

Measured with half of the clips of flow (`--config.training.kclips=60`): figures of the game with
clean outlines before its backgrounds; they move, but not in cycles, and configs/sprites64.py, the
GAN, has the better FVD (docs/benchmarks.md).
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of walking sprites by flow."""
    config = base("flow")
    config.data.update(frames=16, size=64, pick=1)
    config.objective.update(codec_kclips=40.0, perceptual=0.2)
    config.optimizer.codec_learning_rate = cosine(2e-3, 0.0)
    config.optimizer.learning_rate = cosine(1.5e-3, 0.0)
    config.optimizer.update(clip=1.0, warmup_kclips=0.4)
    config.training.update(
        kclips=80.0,
        batch_size=16,
        ema_kclips=2.0,
        log_kclips=0.4,
        sample_kclips=10.0,
        save_kclips=5.0,
        watch_kclips=0.0,
    )
    config.sampling.update(frames=16, clips=16)
    return config
