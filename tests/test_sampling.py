"""The promise: frame t of seed s has the same bits from any window, stream or company."""

import functools
import itertools
import pathlib
import sys

import jax
import numpy as np
import pytest
from conftest import TINY_CODES_GENERATOR, TINY_GENERATOR, network, tiny_config

from vidgen import sampling, text
from vidgen.cli import sampling_flags
from vidgen.errors import ConfigError, StorageError
from vidgen.models import protocol
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling.edit import interpolate


@functools.cache
def make(batch=1, chunk=8, classes=("disc", "square")):
    generator = network("generator", "residual", **TINY_GENERATOR, size=16, classes=len(classes))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32),
        protocol.abstract_params(generator),
    )
    meta = {"classes": classes, "fps": 12.0}
    return sampling.from_generator(generator, params, meta, 5, batch=batch, chunk=chunk)


def test_videos_differ_by_seed_and_move():
    video = make().sample([0, 1, 2], 24)
    assert video.shape == (3, 24, 16, 16, 3) and video.dtype == np.uint8
    assert len({v.tobytes() for v in video}) == 3
    assert all(len({f.tobytes() for f in v}) > 12 for v in video)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("start", [0, 3, 1000, 1_000_003])
def test_windows_streams_and_batches_agree_bit_for_bit(batch, start):
    sampler = make(batch)
    expected = sampler.sample([7], 64, start)[0]
    late = sampler.sample([7], 20, start + 30)[0]
    np.testing.assert_array_equal(expected[30:50], late)
    streamed = np.stack(list(itertools.islice(sampler.stream(7, start), 64)))
    np.testing.assert_array_equal(expected, streamed)
    crowd = sampler.sample(range(16), 64, start)
    np.testing.assert_array_equal(expected, crowd[7])


def test_another_batch_or_chunk_differs_by_rounding_only():
    expected = make(1, 8).sample([7, 8], 32).astype(int)
    for other in (make(4, 8), make(1, 16)):
        assert np.abs(other.sample([7, 8], 32) - expected).max() <= 1


def test_labels_choose_the_class():
    sampler = make()
    by_name = sampler.sample([4, 5], 8, labels="square")
    np.testing.assert_array_equal(by_name, sampler.sample([4, 5], 8, labels=[1, 1]))
    assert not np.array_equal(by_name, sampler.sample([4, 5], 8, labels=0))
    assert set(sampler.latents(range(8), 4)["label"]) == {0, 1}


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda all: all["motion"].fill(np.nan), "motion holds what is not finite"),
        (lambda all: all["content"].__setitem__((0, 0), np.inf), "content holds"),
        (lambda all: all.pop("cycle"), "lack cycle"),
        (lambda all: all.update(content=all["content"][:, 1:]), r"content is float32 \[2, 3\]"),
        (lambda all: all.update(motion=all["motion"][:1]), r"motion is float32 \[1, "),
        (lambda all: all.update(motion=all["motion"][:, 0]), r"motion is float32 \[2, "),
        (lambda all: all.update(label=np.zeros(3, np.int32)), r"content is float32 \[2, 4\]"),
        (lambda all: all.update(label=np.array([0, 2])), r"label is \[0, 2\]"),
        (lambda all: all.update(label=np.array([0.5, 1])), r"label is \[0\.5, "),
        (lambda all: all.update(cycle=all["cycle"].astype(str)), "cycle is <U"),
        (lambda all: all.update(content=[[1.0], [1.0, 2.0]]), "are no arrays"),
        (lambda all: all.update({name: x[:0] for name, x in all.items()}), r"label is \[\]"),
    ],
)
def test_latents_that_cannot_be_decoded_are_refused(change, says):
    sampler = make()
    latents = sampler.latents([0, 1], 8)
    change(latents)
    with pytest.raises(ConfigError, match=says):
        sampler.decode(latents, 8)


def test_a_class_on_the_command_line_is_its_name_or_else_its_place(capsys):
    classes = ("1", "2", "5", "a,b")
    assert sampling_flags.labels("1,0,5", classes) == ["1", 0, "5"]  # none is called 0
    said = capsys.readouterr().err
    assert "--labels=1 is the class of that name" in said and "--labels=5" in said
    assert sampling_flags.labels("a,b", classes) == "a,b"
    assert sampling_flags.labels(None, classes) is None
    assert sampling_flags.labels("\u00b2", classes) == "\u00b2"  # a digit to Python, but no number
    assert sampling_flags.labels("1", ("0", "1")) == "1" and not capsys.readouterr().err


def test_decoded_latents_are_the_sample_and_can_be_edited():
    sampler = make(4)
    latents = sampler.latents([1, 2, 3], 20, 5)
    np.testing.assert_array_equal(sampler.decode(latents, 20, 5), sampler.sample([1, 2, 3], 20, 5))
    swapped = {**latents, "content": latents["content"][::-1], "label": latents["label"][::-1]}
    video = sampler.decode(swapped, 20, 5)
    # Clip 1 keeps all its own; the others have another's looks.
    np.testing.assert_array_equal(video[1], sampler.sample([2], 20, 5)[0])
    assert not np.array_equal(video[0], sampler.sample([1], 20, 5)[0])
    with pytest.raises(ConfigError, match="steps of motion"):
        sampler.decode(latents, 40, 5)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"seeds": [], "frames": 4}, "seeds"),
        ({"seeds": [-1], "frames": 4}, "-1"),
        ({"seeds": np.array([1.5]), "frames": 4}, "whole number"),
        ({"seeds": -1, "frames": 4}, "-1"),
        ({"seeds": [1], "frames": 0}, "frames is 0"),
        ({"seeds": [1], "frames": 4, "start": -1}, "start is -1"),
        ({"seeds": [1], "frames": 4, "start": 2**31}, "frames 2147483648 to"),
        ({"seeds": [1], "frames": 4, "labels": "cube"}, "'cube'"),
        ({"seeds": [1], "frames": 4, "labels": 2}, "2"),
        ({"seeds": [1, 2], "frames": 4, "labels": [0]}, "1 labels for 2 seeds"),
        ({"seeds": [1], "frames": 4, "labels": [1.7]}, "1.7"),
        ({"seeds": [1], "frames": 4, "labels": 1.7}, "1.7"),
        ({"seeds": [1], "frames": 4, "labels": np.array([1.0])}, "1.0"),
        ({"seeds": [1], "frames": 4, "labels": np.array(1.7)}, "1.7"),
        ({"seeds": [1], "frames": 4, "labels": True}, "True"),
        ({"seeds": [1], "frames": 4, "labels": [np.nan]}, "nan"),
        ({"seeds": [1], "frames": 4, "labels": b"square"}, "b'square'"),
        ({"seeds": [1], "frames": 4, "labels": [[0]]}, "[0]"),
        ({"seeds": [1], "frames": 4, "labels": {"square"}}, "square"),
        ({"seeds": True, "frames": 4}, "True"),
        ({"seeds": None, "frames": 4}, "None"),
        ({"seeds": "1", "frames": 4}, "1"),
        ({"seeds": [[1], [2, 3]], "frames": 4}, "[[1], [2, 3]]"),
        ({"seeds": [2**80], "frames": 4}, "seeds"),
        ({"seeds": range(10**12), "frames": 4}, "1000000000000 numbers"),
        ({"seeds": [1], "frames": 4.0}, "frames is 4.0"),
        ({"seeds": [1], "frames": "4"}, "frames is '4'"),
        ({"seeds": [1], "frames": 4, "start": 0.5}, "start is 0.5"),
        ({"seeds": [1], "frames": 4, "start": np.nan}, "start is nan"),
    ],
)
def test_wrong_arguments_are_named(arguments, says):
    with pytest.raises(ConfigError) as error:
        make().sample(**arguments)
    assert says in f"{error.value} {error.value.hint}"


def test_what_is_no_latents_is_refused():
    sampler = make()
    with pytest.raises(ConfigError, match="latents are ndarray"):
        sampler.decode(np.zeros((1, 4)), 4)
    with pytest.raises(ConfigError, match=r"start is 1\.5"):
        next(sampler.stream(1, 1.5))
    latents = sampler.latents([0, 1], 8)
    for parts in ([np.nan], ["0"], [], [1.1], 0.5):
        with pytest.raises(ConfigError, match="parts are"):
            interpolate(latents, latents, parts)
    np.testing.assert_array_equal(
        sampler.sample([4, 5], 8, labels=np.array(1)), sampler.sample([4, 5], 8, labels=(1, 1))
    )


def test_a_number_is_one_seed():
    sampler = make()
    for seed in (3, np.int64(3)):
        np.testing.assert_array_equal(sampler.sample(seed, 4), sampler.sample([3], 4))
    with pytest.raises(ConfigError, match="'3'"):
        sampler.sample(np.array("3"), 4)


def test_videos_have_64_frames_or_all_there_are():
    sampler = make()
    assert sampler.sample(0).shape[1] == 64
    np.testing.assert_array_equal(
        sampler.decode(sampler.latents(0, start=9), start=9), sampler.sample(0, 64, 9)
    )
    arguments = {"size": 8, "length": 6, "features": 2}
    ends = network("generator", "dcgan", **arguments)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), protocol.abstract_params(ends, 6))
    clips = sampling.from_generator(ends, params, {"classes": (), "fps": 1.0}, 0)
    assert clips.sample(0).shape[1] == 6 and clips.sample(0, start=2).shape[1] == 4
    with pytest.raises(ConfigError) as error:
        clips.sample(0, start=6)
    assert "end after 6 frames" in error.value.hint


def test_a_stream_has_the_class_that_is_asked_for():
    sampler = make()
    streamed = np.stack(list(itertools.islice(sampler.stream(4, 3, labels="square"), 4)))
    np.testing.assert_array_equal(streamed, sampler.sample(4, 4, 3, labels="square")[0])


def test_a_sampler_is_described_in_a_line():
    said = repr(make(2))
    size = sum(x.size for x in jax.tree.leaves(make(2).params))
    assert "\n" not in said and len(said) < 200
    for part in ("ResidualGenerator", "16x16", f"{size:,} parameters", "step 5", "2 classes",
                 "12 fps", "without end", "batch 2, chunk 8"):  # fmt: skip
        assert part in said
    assert make(2) == make(2) != make(4)  # by identity: arrays have no one answer


def test_a_chunk_must_fit_the_stride():
    with pytest.raises(ConfigError, match="chunk is 6") as error:
        make(1, 6)
    assert "4" in error.value.hint


@pytest.mark.parametrize("asked", [0, 1.5, True, "a", 2**40])
def test_batch_and_chunk_are_whole_numbers_in_range(asked):
    assert make(batch=np.int64(2)).batch == 2
    with pytest.raises(ConfigError, match="batch is"):
        make(batch=asked)
    with pytest.raises(ConfigError, match="chunk is"):
        make(chunk=8 * asked if type(asked) is int else asked)


def test_paths_on_a_terminal_hold_nothing_that_it_obeys(monkeypatch):
    path = pathlib.Path("a\x1b[31m.mp4")
    assert text.printed(path) == str(path)  # for the program that reads it
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert text.printed(path) == "a\\x1b[31m.mp4"


def test_loading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(StorageError, match="no run in"):
        sampling.load(tmp_path / "nothing")
    with pytest.raises(StorageError, match="no checkpoint"):
        sampling.load(tmp_path)
    with pytest.raises(ConfigError, match="step is 'last'"):
        sampling.load(tmp_path, "last")
    for step in (4.0, True, [4]):
        with pytest.raises(ConfigError, match="step is"):
            sampling.load(tmp_path, step)


@pytest.fixture(scope="module")
def codes_run(tmp_path_factory):
    """The folder of a run whose generator has sampling options."""
    folder = tmp_path_factory.mktemp("codes")
    arguments = {"kind": "codes", "size": 8, "classes": 0, **TINY_CODES_GENERATOR}
    arguments |= {"temperature": 0.75, "top_p": 0.5}
    generator = network("generator", **arguments)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), protocol.abstract_params(generator))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(1, {"ema": params}, {"generator": arguments, "classes": [], "fps": 10.0})
    checkpoints.close()
    return folder


def test_a_run_says_what_it_can_be_sampled_with(codes_run):
    assert sampling.options_of(codes_run) == {"temperature": 0.75, "top_k": 0, "top_p": 0.5}
    generator = sampling.load(codes_run, top_k=2, temperature=2).generator
    assert (generator.temperature, generator.top_k, generator.top_p) == (2, 2, 0.5)


@pytest.mark.parametrize(
    "given, says, hint",
    [
        ({"temprature": 1.0}, "'temprature'", "did you mean temperature"),
        ({"window": 3}, "'window'", "temperature, top_k, top_p"),
        ({"temperature": "hot"}, "temperature is 'hot'", "a float, such as 0.75"),
        ({"top_k": 1.5}, "top_k is 1.5", "an int, such as 0"),
        ({"top_k": True}, "top_k is True", "an int"),
        ({"temperature": 0.0}, "temperature is 0.0", "above 0"),
    ],
)
def test_wrong_sampling_options_are_named(codes_run, given, says, hint):
    with pytest.raises(ConfigError) as error:
        sampling.load(codes_run, **given)
    assert says in str(error.value) and hint in error.value.hint


def test_streaming_takes_constant_memory():
    import tracemalloc

    stream = make(1, 64).stream(3)
    for _ in range(200):
        next(stream)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(10_000):
        next(stream)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 2_000_000  # 10,000 frames are 7.7 MB


def test_a_trained_run_is_loaded_by_its_path(tmp_path):
    import vidgen
    from vidgen.run import train

    config = tiny_config()
    train.train(config, tmp_path / "run")
    sampler = vidgen.load(tmp_path / "run")
    assert sampler.classes == ("disc", "square") and sampler.fps == 10.0
    assert sampler.step == 4 and sampler.sample([0], 5).shape == (1, 5, 16, 16, 3)
    assert vidgen.load(tmp_path / "run", 2).step == 2
    assert not np.array_equal(
        vidgen.load(tmp_path / "run", 2).sample([0], 5), sampler.sample([0], 5)
    )
