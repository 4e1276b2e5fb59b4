"""Human actions at 64x64 (wave, jump, bend): short clips in four class folders, as MoCoGAN's.

    pip install -e ".[features]"     # what photographs are told by, 19 MB
    vidgen train --config=configs/actions64.py --config.data.path=FOLDER --workdir=runs/actions64

Expected: 40 minutes on one CPU core (29 clips/s before features were bounded): people in clothes of
their own who bend, jump and wave in front of their walls, each as its class says; after a quarter
of it there are outlines. A picture is in docs/benchmarks.md. For drawings, see
configs/sprites64.py.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of figures that wave."""
    config = base()
    # Seven people, whom their colours tell apart: without looks there was one.
    config.data.update(frames=16, stride=2, size=64, pick=3, looks=7)
    config.generator.update(
        widths=(192, 128, 64, 32), head=24, palette=0, stride=4, style=192, periods=(12,)
    )
    config.generator.feature_bound = 32.0  # without it they grow
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "taps": (4, 8, 16, 32), "width": 32, "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.15, 0.0)
    config.objective.augmentations = ("shift", "brightness", "cutout")
    config.objective.augment_p = constant(0.6)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.optimizer.warmup_kclips = 0.8
    config.training.update(
        kclips=64.0,
        batch_size=8,
        ema_kclips=2.0,
        log_kclips=0.4,
        sample_kclips=2.4,
        save_kclips=2.4,
        watch_kclips=2.4,
    )
    config.sampling.update(frames=16, clips=16)
    return config
