"""One coloured shape on black along a curve, 64x64: 1000 clips in two classes.

    vidgen train --config=configs/shapes64.py --config.data.path=FOLDER --workdir=runs/shapes64

Expected: 32 minutes on one CPU core (46.6 clips/s, before features were bounded): small discs and
squares of many colours that drift on black; now and then one fades and comes back elsewhere. A
picture is in docs/benchmarks.md.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of moving shapes."""
    config = base()
    config.data.update(frames=16, size=64, pick=3)
    config.generator.update(
        widths=(128, 96, 48), head=24, palette=0, output="linear", stride=16, style=128
    )
    config.generator.feature_bound = 32.0  # FVD 98; without it 136, one seed each
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "change": 3.0, "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.mismatch = cosine(0.5, 0.0)
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.optimizer.warmup_kclips = 0.8
    config.training.update(
        kclips=90.0,
        batch_size=8,
        ema_kclips=1.0,
        log_kclips=0.4,
        sample_kclips=7.5,
        save_kclips=7.5,
        watch_kclips=7.5,
    )
    config.sampling.update(frames=32, clips=16)
    return config
