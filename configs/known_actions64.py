"""Human actions of which some pixels are known: a first frame, the ends, all but a hole.

    pip install -e ".[features]"
    vidgen train --config=configs/known_actions64.py --config.data.path=FOLDER --workdir=runs/known

Expected: after 14,000 clips, 22 minutes on one CPU core, holes and borders are filled with wall;
frames that follow a first one are not better than the frame itself (docs/conditions.md): for those
see configs/flow_known_actions64.py.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of clips that are completed."""
    config = base()
    config.data.update(frames=16, stride=2, size=64, pick=3, flip=True)
    modes = ("first", "start", "ends", "some", "hole", "border")
    config.conditions = ConfigDict({"frames": {"modes": modes, "width": 32, "drop": 0.05}})
    config.generator.update(
        widths=(128, 96, 64, 32), head=24, palette=0, stride=4, style=128, periods=(12,)
    )
    config.generator.feature_bound = 32.0
    config.discriminator = ConfigDict(
        {"kind": "heads", "scales": (2, 8), "taps": (4, 8, 16), "width": 32, "group": 8}
    )
    config.objective.r1 = cosine(20.0, 2.0)
    config.objective.r2 = cosine(20.0, 2.0)
    config.objective.penalty_interval = 4
    config.objective.l1 = 10.0
    config.optimizer.learning_rate = cosine(8e-4, 0.0)
    config.optimizer.warmup_kclips = 0.8
    config.training.update(
        kclips=24.0,
        batch_size=8,
        ema_kclips=1.0,
        log_kclips=0.4,
        sample_kclips=2.4,
        save_kclips=2.4,
        watch_kclips=4.8,
    )
    config.sampling.update(frames=16, clips=16)
    return config
