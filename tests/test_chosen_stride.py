"""A run whose stride the clips choose says which it is, and keeps it with each checkpoint."""

import json

import numpy as np
from conftest import tiny_config

from vidgen.evaluation import subjects
from vidgen.run import artifacts, train


def config_of(root, lengths, **data):
    (root / "clips").mkdir()
    for n, frames in enumerate(lengths):
        video = np.full((frames, 16, 16, 3), n, np.uint8)
        np.savez(root / "clips" / f"{n}.npz", v=video, fps=25.0)
    config = tiny_config()
    data = {"frames": 6, "pick": 4, "stride": 0, "short": "loop"} | data
    config.data.update(path=str(root / "clips"), cache=str(root / "packs"), **data)
    return config


def test_the_choice_is_said_once(tmp_path, capsys):
    config = config_of(tmp_path, [40] * 9 + [4])
    _, clips = artifacts.open_clips(config)
    said = capsys.readouterr().err
    assert clips.stride == 6  # 31 frames are 1.24 s, 36 are 1.44 s
    assert said == (
        "data.stride=0 is 6 for these clips: a window of 6 frames lasts 1.24 s, and 9 of 10 clips "
        "are as long; the rest repeat their frames\n"
    )
    config.data.stride = 6
    artifacts.open_clips(config)
    assert "data.stride" not in capsys.readouterr().err


def test_a_run_keeps_the_choice_and_is_measured_by_it(tmp_path):
    config = config_of(tmp_path, [40] * 4)
    config.training.update(kclips=0.008, watch_kclips=0.0)
    train.train(config, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["stride"], run["config"]["data"]["stride"]) == (6, 0)
    train.train(config, tmp_path / "run")  # the same config and clips: the same run
    loaded = subjects.load_run(tmp_path / "run", None, None, 6)
    assert loaded is not None and (loaded.stride, loaded.fps) == (6, None)
