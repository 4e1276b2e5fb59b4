"""Words of a command line that no command can take, one of each kind; `lines.py` draws others."""

import pytest

from vidgen.cli import config_flags, main
from vidgen.errors import ConfigError, StorageError
from vidgen.text import plain
from vidgen.tools import launch
from vidgen.video import atomic

LONG = "9" * 5000
WRONG = [
    ("launch --processes=100000 -- train", "--processes: '100000' is no whole number, 1 to 1024"),
    ("launch --processes=2 --heartbeat=nan -- train", "'nan' is no number, 2 to 1e+06"),
    ("launch --processes=2 --devices=-1 -- train", "--devices: '-1'"),
    ("launch --processes=2 --max_restarts=² -- train", "--max_restarts: '²'"),
    ("sample RUN --frames=0", "--frames: '0' is no whole number, 1 to 2147483648"),
    ("sample RUN --frames=--", "--frames has no value"),
    ("sample RUN --start=-1", "--start: '-1'"),
    ("sample RUN --start=\u0661", "--start: '\u0661'"),
    ("sample RUN --fps=nan", "--fps=nan"),
    ("sample RUN --fps=-5", "--fps=-5"),
    ("sample RUN --quality=inf", "--quality: 'inf' is no number, 0 to 100"),
    ("sample RUN --step=²", "--step: '²' is neither a number of a step nor best"),
    (f"sample RUN --step={LONG}", "--step: '9999"),
    ("sample RUN --labels=", "--labels has no value"),
    ("sample --out", "--out has no value"),
    ("sample --out --frames=3", "--out has no value"),
    ("evaluate RUN --against=D --clips=1000000000000", "--clips: '1000000000000'"),
    ("evaluate RUN --against=D --size=100000", "each side 1 to 8192"),
    ("evaluate RUN --against=D --stride=1000000", "--stride: '1000000'"),
    ("evaluate RUN --against=D --seed=4294967296", "0 to 4294967295"),
    ("evaluate RUN --against=D --fps=1e300", "--fps: '1e300' is no number, 0.1 to 1000"),
    ("evaluate RUN --against=D --change=bogus", "--change=bogus"),
    ("reconstruct RUN D --clips=1000000000000", "--clips: '1000000000000'"),
    ("train --config=configs/toy.py --workdir= --init_from=x", "--workdir has no value"),
    ("bench --config=configs/toy.py --against=/nope.json", "--against=/nope.json holds no figures"),
    ("sample RUN --seeds=\u0663", "--seeds=\u0663"),
    ("data inspect toy:clips=99999999999999999", "clips is 99999999999999999, must be 1 to"),
    ("data inspect toy:clips=\u0663", "is not known"),
    (f"data inspect toy:seed={LONG[:40]}", "is not known"),
    ("data inspect toy --sheet=a.gif", "--sheet=a.gif is a PNG file"),
]


@pytest.mark.parametrize("line, says", WRONG, ids=[line[:40] for line, _ in WRONG])
def test_a_wrong_value_of_a_flag_is_refused_with_what_it_may_be(line, says, capsys, monkeypatch):
    monkeypatch.setattr(launch, "launch", lambda *_, **__: pytest.fail("starts processes"))
    assert main.main(line.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert says in said[0] and 1 <= len(said) <= 2 and len(said[0]) < 700


@pytest.mark.parametrize("words", [["data", "inspect", ""], ["sample", ""], ["compare", "", "x"]])
def test_an_empty_argument_is_refused_and_not_taken_for_this_folder(words, capsys):
    assert main.main(words) == 2
    assert "an argument is empty" in capsys.readouterr().err


def test_what_is_said_of_odd_words_is_a_line_that_a_terminal_only_shows(capsys):
    for word in ("\x1b[31mred", "two\nlines", "\udcff", "a" * 100_000):
        assert main.main([word]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 2 and len(said) < 1500
        assert all(line.isprintable() for line in said.splitlines())
    assert plain("a\tb\x1b\u202e") == r"a\tb\x1b\u202e" and plain("naïve ²") == "naïve ²"


def test_a_path_that_no_file_system_takes_is_a_wrong_argument(capsys, tmp_path):
    assert main.main(["checkpoint", "verify", "x" * 300]) == 2
    assert "ile name too long" in capsys.readouterr().err
    (tmp_path / "list.json").write_text('{"figures": {"step": "x"}}')
    flag = f"--against={tmp_path / 'list.json'}"
    assert main.main(["bench", "--config=configs/toy.py", flag]) == 2


CONFIGS = {
    "def get_config(): return None": "get_config returns NoneType",
    "def get_config(): raise KeyError('x')": r"\(line 1\): KeyError",
    "class Odd(BaseException): pass\ndef get_config(): raise Odd": r"\(line 2\): Odd",
    "import sys\nsys.exit(0)": r"\(line 2\): SystemExit: 0",
    "def get_config(): return get_config()": "RecursionError",
    "class Odd(Exception):\n def __str__(self): return 7\n"
    "def get_config(): raise Odd": r"\(line 3\): Odd",
    "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n c.data.size = 10**5000\n"
    " return c": "config.data.size is a number of 16610 bits",
    "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n c.data = {3: 4, 'x': 1}\n"
    " return c": "a name that is no text",
    "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.generator.kind\n c.generator.kind = [1]\n"
    " return c": "config.generator.kind is",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_file_that_gives_no_config_is_named(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=CONFIGS[text]):
        config_flags.read([f"--config={tmp_path / 'mine.py'}"], data="toy")


def test_names_that_are_like_none_are_not_all_listed():
    with pytest.raises(ConfigError) as refused:
        config_flags.shown("gan", ["--config.qqqq=1"])
    assert "vidgen config METHOD" in refused.value.hint and len(refused.value.hint) < 100


def test_a_run_to_begin_from_is_looked_for_before_clips_are_packed(tmp_path, monkeypatch, capsys):
    from vidgen.run import artifacts

    monkeypatch.setattr(artifacts, "open_clips", None)
    flags = ["--config=configs/toy.py", f"--workdir={tmp_path / 'run'}"]
    assert main.main(["train", *flags, f"--init_from={tmp_path / 'none'}"]) == 5
    assert "there is no run in" in capsys.readouterr().err


def test_launch_takes_no_heartbeat_that_is_no_number():
    for heartbeat in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigError, match="--heartbeat"):
            launch.launch(["true"], 1, heartbeat=heartbeat)


def test_a_place_that_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").write_text("in the way")
    atomic.check_place(tmp_path / "new" / "deep" / "a.png")
    atomic.check_place(tmp_path / "file")  # which is replaced
    for path, folder in (("file/a.png", False), ("file", True), (".", False), ("x" * 300, False)):
        with pytest.raises(StorageError, match="cannot be written"):
            atomic.check_place(tmp_path / path, folder)
