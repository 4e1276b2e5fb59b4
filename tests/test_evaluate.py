"""The command, from clips to reports that may or may not be compared."""

import doctest
import logging

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import tiny_config
from test_features import sliding

import vidgen
from vidgen.cli import main
from vidgen.evaluation import evaluate, report, scores
from vidgen.metrics import degradations
from vidgen.run import train


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Twenty clips of sliding patterns, as an array."""
    path = tmp_path_factory.mktemp("real") / "clips.npy"
    np.save(path, np.stack([sliding((k % 3 - 1, k % 4), 24, k, 32) for k in range(20)]))
    return path


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    path = tmp_path_factory.mktemp("fake") / "clips.npy"
    np.save(path, np.stack([sliding((0, k % 2), 16, 100 + k, 32) for k in range(16)]))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path_factory.getbasetemp() / "evaluate-cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    config = tiny_config()
    config.data.size = 8  # one level: most of the time goes into compiling
    config.generator.widths = config.discriminator.widths = (8,)
    config.training.update(kclips=0.016, save_kclips=0.0)
    train.train(config, workdir)
    return workdir


def evaluated(subject, real, out, *more):
    flags = [str(subject), f"--against={real}", "--clips=16", f"--out={out}", *more]
    assert main.main(["evaluate", *flags]) == 0
    return report.read(out)


def test_a_folder_of_videos_is_scored_and_reported(real, fake, tmp_path, capsys):
    found = evaluated(fake, real, tmp_path / "out")
    said = capsys.readouterr().out
    assert "quick version 1: 16 clips of 16 frames, random features" in said
    assert str(tmp_path / "out" / "report.html") in said
    for name in scores.MEANINGS:
        assert (name in found["figures"]) == (name not in ("fvd", "fvd_infinity", "kvd",
                                                           "inception_score")), name  # fmt: skip
        assert name not in found["figures"] or f"\n{name} " in said
    manifest = found["manifest"]
    assert manifest["real"]["size"] == 32 and manifest["frames"] == 16
    names, first = zip(*manifest["real"]["windows"], strict=True)
    assert len(names) == 16 and set(first) <= set(range(9)) and len(set(names)) == 16
    assert found["figures"]["flow_real"]["value"] > found["figures"]["flow"]["value"]


def test_one_half_of_the_clips_against_the_other(real, tmp_path):
    found = evaluated("real", real, tmp_path / "a")
    assert found["manifest"]["real"]["half"] == 0 and found["subject"]["half"] == 1
    names = {name for name, _ in found["manifest"]["real"]["windows"]}
    assert len(names) == 10
    same = evaluated("real", real, tmp_path / "b", "--change=copied")
    assert same["figures"]["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert same["figures"]["copied"]["value"] == 1
    assert found["figures"]["copied"]["value"] == 0
    assert found["figures"]["frechet"]["value"] > 100 * same["figures"]["frechet"]["value"]


def test_the_example_of_the_docstring_runs():
    (example,) = doctest.DocTestFinder(recurse=False).find(
        evaluate.evaluate, "evaluate", globs={"evaluate": vidgen.evaluate}
    )
    assert len(example.examples) == 3
    doctest.DebugRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)


def test_counts_and_doubts_are_said_before_anything_long(real, tmp_path, caplog, monkeypatch):
    """In the log before features are extracted, and afterwards in the result and the report."""
    at_extract = []
    extract = evaluate.features.extract

    def spy(*arguments, **more):
        at_extract.append(len(caplog.records))
        return extract(*arguments, **more)

    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate.features, "extract", spy)
    clips = np.stack([sliding((0, 1), 17, k, 48) for k in range(10)])
    np.save(tmp_path / "larger.npy", clips)
    with caplog.at_level(logging.INFO, "vidgen"):
        result = evaluate.evaluate(
            "toy:clips=12,frames=17", tmp_path / "larger.npy", "pixel", clips=30, size=16
        )
    first, second, *doubts = [record.getMessage() for record in caplog.records]
    assert at_extract[0] == 7  # these two lines and five doubts
    assert first == "pixel wants 30 clips of 16 frames a side"
    # Clips of 17 frames have two windows of 16.
    assert second == "real has 20 windows in 10 clips, generated 24 windows in 12 clips"
    assert result.warnings == tuple(doubts)
    for number, words in enumerate(
        [
            ("pixel wants 30 clips, the real ones have 20 windows",),
            ("pixel wants 30 clips, the generated ones have 24 windows",),
            ("20 real clips and 24 generated clips are few",),
            ("real clips have 25 frames per second, generated ones 10", "arrays, count as 25"),
            ("real clips are 48x48, generated ones 16x16; both are measured at 16x16",),
        ]
    ):
        assert all(word in doubts[number] for word in words), doubts[number]
    # Said when it is known: no real clip comes back to where it was, some generated ones do.
    assert doubts[5:] == ["left out, since the real clips are alike in it: period_distance"]
    assert result.real == {
        "path": str(tmp_path / "larger.npy"), "clips": 10, "windows": 20, "fps": 25.0,
        "frame_size": (48, 48),
    }  # fmt: skip


def test_enough_clips_of_one_size_and_rate_raise_no_doubts(monkeypatch):
    monkeypatch.setattr(evaluate, "FEW_CLIPS", 12)  # 256 take their time
    sides = "toy:clips=12,seed=1", "toy:clips=12"
    assert evaluate.evaluate(*sides, "pixel", clips=12, size=8).warnings == ()
    doubt, *late = evaluate.evaluate(*sides, "pixel", clips=11, size=8).warnings
    assert all(other.startswith("left out") for other in late)
    assert "11 real clips and 11 generated clips are few" in doubt


def test_clips_that_are_at_the_real_stride_already_are_taken_whole(tmp_path, monkeypatch):
    """As 16 frames sampled from a model of every second frame are: the same scores as by hand."""
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    clips = np.stack([sliding((0, 1), 31, k, 16) for k in range(8)])
    np.save(tmp_path / "real.npy", clips)
    np.save(tmp_path / "half.npy", clips[:, ::2])
    result = evaluate.evaluate(
        tmp_path / "half.npy",
        tmp_path / "real.npy",
        "pixel",
        clips=8,
        stride=2,
        generated_stride=1,
    )
    assert result.scores["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert result.scores["copied"]["value"] == 1
    assert result.subject["stride"] == 1 and result.manifest["real"]["stride"] == 2
    assert not any("frame rates" in warning for warning in result.warnings)
    whole = evaluate.evaluate(
        tmp_path / "real.npy", tmp_path / "real.npy", "pixel", clips=8, stride=2
    )
    assert whole.manifest == result.manifest and "stride" not in whole.subject


def test_clips_of_another_shape_are_remarked_on(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "FEW_CLIPS", 8)
    clips = np.stack([sliding((0, 1), 16, k, 16) for k in range(8)])
    np.save(tmp_path / "square.npy", clips)
    np.save(tmp_path / "wide.npy", np.pad(clips, ((0, 0), (0, 0), (0, 0), (0, 12), (0, 0))))
    (doubt,) = evaluate.evaluate(
        tmp_path / "wide.npy", tmp_path / "square.npy", "pixel", clips=8
    ).warnings
    assert "real clips are 16x16, generated ones 28x16" in doubt and "sides are cut off" in doubt
    assert "sharpness" not in doubt  # neither side is resized


def test_limits_that_evaluate_has_no_flag_for_are_said_to_be_a_packs(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    clips = tmp_path / "clips"
    clips.mkdir()
    np.save(clips / "good.npy", np.stack([sliding((0, 1), 16, k, 8) for k in range(8)]))
    np.save(clips / "long.npy", np.zeros((1, 100_001, 2, 2, 3), np.uint8))
    evaluate.evaluate(clips, clips, "pixel", clips=8, size=8)
    said = [record.getMessage() for record in caplog.records]
    assert any("long.npy" in line and "data.limits.frames" in line for line in said)
    assert any("vidgen data pack" in line for line in said)


@pytest.mark.parametrize("real, left_out", [(0, True), (1, False)])
def test_constant_clips_give_figures_or_a_word(tmp_path, monkeypatch, real, left_out):
    """Warnings are errors here, SciPy's too."""
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "0.npy", np.zeros((8, 16, 16, 16, 3), np.uint8))
    np.save(tmp_path / "1.npy", np.stack([sliding((0, 1), 16, k, 16) for k in range(8)]))
    sides = tmp_path / "0.npy", tmp_path / f"{real}.npy"
    result = evaluate.evaluate(*sides, "quick", clips=8)
    assert all(np.isfinite(list(score.values())).all() for score in result.scores.values())
    names = {"content_diversity", "motion_diversity", "different_bins", "nearest_distance"}
    said = [doubt for doubt in result.warnings if "left out" in doubt]
    assert bool(said) == left_out and all(name in said[0] for name in names if left_out)
    assert names.isdisjoint(result.scores) == left_out
    written = report.write(result, tmp_path / "report")
    report.show(result)
    other = evaluate.evaluate(*sides[::-1], "quick", clips=8)
    assert report.read(written)["figures"] == result.scores and other.scores


def test_a_result_is_one_line(real, fake):
    result = evaluate.evaluate(fake, real, "pixel", clips=8)
    line = repr(result)
    assert "\n" not in line and len(line) < 600
    assert f"{result.scores['frechet']['value']:.4g}" in line and str(real) in line


def test_a_run_is_sampled_and_nothing_is_written_but_its_report(run, capsys):
    before = {p for p in run.rglob("*") if p.is_file()}
    against = "--against=toy:clips=64"
    assert main.main(["evaluate", str(run), against, "--clips=8", "--protocol=pixel"]) == 0
    after = {p for p in run.rglob("*") if p.is_file()}
    folder = run / "evaluation" / "2"
    assert after - before == {folder / "report.json", folder / "report.html"}
    found = report.read(run)
    assert found["subject"]["step"] == 2 and found["subject"]["labels"] == "as the real clips"
    assert "frechet" in found["figures"] and found["manifest"]["network"] == "pixel"
    # Another protocol's report does not take the place of this one.
    assert main.main(["evaluate", str(run), against, "--clips=8"]) == 0
    kept = list(folder.glob("report-pixel-*.json"))
    assert len(kept) == 1 and report.read(kept[0]) == found
    assert report.read(run)["manifest"]["network"] == "random"


def test_scores_depend_on_neither_batch_nor_devices(real, fake, tmp_path, monkeypatch):
    import jax

    results = []
    for number, (batch, devices) in enumerate([(2, 8), (2, 1), (5, 1)]):
        monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / str(number)))  # nothing kept
        results.append(
            evaluate.evaluate(
                fake, real, clips=16, batch=batch, devices=jax.devices()[:devices]
            ).scores
        )
    for other in results[1:]:
        for name, figure in results[0].items():
            assert other[name] == pytest.approx(figure, rel=1e-4, abs=1e-6), name


def test_features_of_real_clips_are_computed_once(real, fake, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    first = evaluate.evaluate(fake, real, clips=8).scores
    extract, seen = evaluate.features.extract, []

    def counted(measure, clips, **more):
        seen.append(measure)
        return extract(measure, clips, **more)

    monkeypatch.setattr(evaluate.features, "extract", counted)
    assert evaluate.evaluate(fake, real, clips=8).scores == first and len(seen) == 1
    for path in (tmp_path / "features").iterdir():
        path.write_bytes(path.read_bytes()[:100])  # a damaged file is made again
    assert evaluate.evaluate(fake, real, clips=8).scores == first and len(seen) == 4
    assert evaluate.evaluate(fake, real, clips=8, seed=1).scores != first


def test_only_what_was_measured_alike_is_compared(real, fake, tmp_path, capsys):
    evaluated(fake, real, tmp_path / "a")
    evaluated(real, real, tmp_path / "b")
    evaluated(fake, real, tmp_path / "seed", "--seed=1")
    capsys.readouterr()
    assert main.main(["evaluate", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "| frechet | " in said and "| precision | " in said
    assert main.main(["compare", str(tmp_path / "a"), str(tmp_path / "seed")]) == 2
    said = capsys.readouterr()
    assert "measured alike: seed: 0 and 1\n" in said.err and not said.out
    paths = [str(tmp_path / name) for name in "ab"]
    for name in ("plot.svg", "plot.png"):
        assert main.main(["compare", *paths, f"--plot={tmp_path / name}"]) == 0
    drawn = (tmp_path / "plot.svg").read_text()
    assert "<svg" in drawn and "precision" in drawn
    picture = iio.imread(tmp_path / "plot.png", extension=".png")
    assert picture.std() > 0
    capsys.readouterr()
    assert main.main(["compare", *paths, f"--plot={tmp_path / 'plot.gif'}"]) == 2
    said = capsys.readouterr()
    assert ".svg or .png" in said.err and not said.out and not (tmp_path / "plot.gif").exists()


@pytest.mark.parametrize(
    "flags, code, said",
    [
        (["real"], 2, "--against"),
        ([], 2, "nothing to evaluate"),
        (["{real}", "--against={real}", "--protocol=fid"], 2, "'fid'"),
        (["{real}", "--against={real}", "--clips=3"], 2, "--clips=3"),
        (["{real}", "--against={real}", "--change=upside-down"], 2, "upside-down"),
        (["{real}", "--against={real}", "--weights=x"], 2, "--weights=x"),
        (["{real}", "--against=nowhere"], 3, "nowhere"),
        (["{real}", "--against={real}", "--protocol=fvd128", "--clips=8"], 3, "128"),
        (["toy:clips=7", "--against={real}"], 3, "generated clips (toy:clips=7): 7 windows"),
        (["{real}", "--against=toy:clips=7"], 3, "real clips (toy:clips=7): 7 windows"),
        (["{real}", "--against={real}", "--step=3"], 2, "is no run"),
        (["{real}", "--against={real}", "--reconstructions"], 2, "no codec"),
        (["real", "--against={real}", "--generated_stride=1"], 2, "--generated_stride=1"),
        (["toy:frames=16", "--against={real}", "--stride=2", "--size=8"], 3, "a smaller --stride"),
        (
            ["toy:clips=9,frames=16", "--against=toy:clips=9,frames=31", "--stride=2"],
            3,
            "ed_stride=1",
        ),
        (["{real}", "--against={real}", "--steps=4"], 2, "unknown flag --steps"),
        (["{real}", "--metrics=toy", "--reconstructions"], 2, "--reconstructions"),
        (["--compare", "{real}", "{real}"], 3, "is no JSON"),
        (["--compare", "nowhere", "nowhere"], 3, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(real, capsys, flags, code, said):
    assert main.main(["evaluate", *(flag.format(real=real) for flag in flags)]) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_changes_do_what_they_say():
    clips = [sliding((0, 1), 8, k, 16) for k in range(9)]
    made = {
        name: list(degradations.apply(name, iter(clips), iter(clips[::-1])))
        for name in degradations.CHANGES
    }
    assert all(len(found) == 9 for found in made.values())
    assert all(np.ptp(clip.astype(int), axis=0).max() == 0 for clip in made["frozen"])
    assert sorted(map(bytes, made["shuffled"][0])) == sorted(map(bytes, clips[0]))
    np.testing.assert_array_equal(made["reversed"][2], clips[2][::-1])
    noise = np.concatenate(made["noisy"]).astype(float) - np.concatenate(clips)
    assert 15 < noise.std() < 20.5  # a little is clipped
    assert np.abs(np.diff(made["blurred"][0].astype(int), axis=1)).mean() < (
        np.abs(np.diff(clips[0].astype(int), axis=1)).mean()
    )
    assert len({clip.tobytes() for clip in made["collapsed"]}) == 4
    np.testing.assert_array_equal(made["copied"][0], clips[-1])


def test_content_distance_of_shapes_that_keep_and_change_their_colour(tmp_path, capsys):
    clips = np.zeros((4, 16, 16, 16, 3), np.uint8)
    for time in range(16):
        clips[:, time, time // 2 : time // 2 + 6, 4:10] = (250, 120, 30)
    np.save(tmp_path / "kept.npy", clips)
    assert main.main(["evaluate", str(tmp_path / "kept.npy"), "--metrics=acd"]) == 0
    assert capsys.readouterr().out.split() == ["acd_c", "0.000"]
    clips[:, 8:, ..., 0] = np.where(clips[:, 8:, ..., 0], 241, 0)  # 9 levels for half of the time
    np.save(tmp_path / "changed.npy", clips)
    assert main.main(["evaluate", str(tmp_path / "changed.npy"), "--metrics=acd"]) == 0
    assert float(capsys.readouterr().out.split()[1]) == pytest.approx(9 * 64 / 120, abs=1e-3)
    for wrong, about in (
        ("--clips=0", "--clips: '0'"),
        ("--step=4", "is no run"),
        ("--against=toy", "--against is for clips beside real ones"),
        ("--stride=2", "--stride is for clips beside real ones"),
        ("--protocol=fvd16", "--protocol is for clips beside real ones"),
        ("--seed=1", "--seed is for clips beside real ones"),
    ):
        assert main.main(["evaluate", str(tmp_path / "kept.npy"), "--metrics=acd", wrong]) == 2
        assert about in capsys.readouterr().err
