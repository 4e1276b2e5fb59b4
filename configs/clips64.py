"""A start for your own folder of real clips, at 64x64: what `vidgen data inspect` ends with.

    pip install -e ".[features]"     # what photographs are told by, 19 MB
    vidgen data inspect FOLDER
    vidgen train --config=configs/clips64.py --config.data.path=FOLDER --workdir=runs/mine

The distance of a window's frames is chosen by the clips (docs/data.md), and printed at the start;
clips that are too short for a window all the same repeat their frames. The networks and weights are
those of configs/actions64.py. For drawings and pixel art set
`--config.discriminator.taps=()` and `--config.discriminator.width=64`: photographs' features see
little in them. Frames of 16:9 keep their sides with `--config.data.size=64,112`.

Each class is split into four looks by the colours of its clips (`config.data.looks`), so that not
one figure of it is made again and again; ask for as many as there are people or places.

Expected: 40 minutes on one CPU core, as configs/actions64.py took. Fifty short clips of one kind of
movement, seen from one place, are learnt best; if the samples stay blurred, lower
config.objective.r1 and r2; if they fall apart, or show one figure again and again, raise them.
"""

from ml_collections import ConfigDict

from vidgen.config import constant, cosine
from vidgen.methods import base


def get_config():
    """Returns the config of a user's own clips."""
    config = base()
    config.data.update(frames=16, stride=0, short="loop", size=64, pick=3, looks=4)
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
