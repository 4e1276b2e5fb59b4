"""The variational autoencoder on 32x32 toy clips: one disc or square that bounces.

    vidgen train --config=configs/vae_toy.py --workdir=runs/vae

Measured: 463 s of steps on one CPU core beside others; 58 % of samples of the prior pass the check
of `vidgen evaluate RUN --metrics=toy` (three discs for one square), and reconstructions have a PSNR
of 23 dB (`vidgen reconstruct RUN toy:seed=5 --clips=64`).
"""

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of the autoencoder's demo."""
    config = base("vae")
    # The encoder sees all frames, half of them are reconstructed: more clips in the same time.
    config.data.update(path="toy", frames=8, size=32, pick=4)
    config.generator.update(
        widths=(96, 64),
        head=32,
        palette=2,
        style=128,
        stride=12,
        content=16,
        motion=8,
        encoder_widths=(64, 96),
        features=128,
    )
    # Wider than the errors at the end: what is lost in sharpness is won in samples of the prior.
    config.objective.scale = 0.8
    # From 0: at 0.1 in the first steps the motion noise was never used, nor objects drawn.
    config.objective.beta = cosine(0.0, 1.0, 4.0)
    config.optimizer.learning_rate = cosine(2e-3, 0.0)
    config.optimizer.b2 = constant(0.99)
    config.training.update(
        kclips=20.0,
        batch_size=16,
        ema_kclips=0.3,
        log_kclips=0.16,
        sample_kclips=8.0,
        save_kclips=8.0,
        watch_kclips=4.0,
    )
    config.sampling.update(frames=32, clips=16)
    return config
