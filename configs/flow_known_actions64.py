"""Human actions by flow, of which some frames are known: the first, the first few, both ends.

    pip install -e ".[features]"     # what the codec's pictures are compared by, 19 MB
    vidgen train  --config=configs/flow_known_actions64.py --config.data.path=FOLDER --workdir=RUN
    vidgen sample RUN --known=first.png --frames=16 --seeds=0:4

Expected: 31 minutes on one CPU core: people go on from a frame as their class says, also people of
whom training saw nothing, with blurred hands. docs/conditions.md has figures beside copies of the
known frames.
"""

from ml_collections import ConfigDict

from vidgen.config import cosine
from vidgen.methods import base


def get_config():
    """Returns the config of people whose movement goes on."""
    config = base("flow")
    config.data.update(frames=16, stride=2, size=64, pick=1, flip=True)
    modes = ("first", "start", "ends", "alternate", "some")
    config.conditions = ConfigDict({"frames": {"modes": modes, "whole": True, "drop": 0.1}})
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
