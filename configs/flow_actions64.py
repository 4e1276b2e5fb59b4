"""A flow in the latents of a codec, of human actions at 64x64: four class folders, as MoCoGAN's.

    pip install -e ".[features]"     # what the codec's pictures are compared by, 19 MB
    vidgen train --config=configs/flow_actions64.py --config.data.path=FOLDER --workdir=RUN

Expected: 55 minutes on one CPU core of two, the other busy (12 of them for the codec): people in
clothes of their own who bend, jump and wave before walls that stay, better than the GAN's of
configs/actions64.py (docs/benchmarks.md). After a quarter of the flow most figures
are whole, and those who bend are not.
"""

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of people by flow."""
    config = base("flow")
    config.data.update(frames=16, stride=2, size=64, pick=1)
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
