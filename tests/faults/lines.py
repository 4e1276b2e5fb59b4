"""Draws command lines, good and absurd, and runs them where work would begin no further.

A program of its own, so that a line that aborts the process is seen by those who started it: reads
`{"seed": ..., "count": ..., "folder": ...}` as its argument (and perhaps `first`, `trace` and
`sabotage`), and prints a line of JSON before and after each command.
"""

import contextlib
import importlib
import io
import itertools
import json
import os
import pathlib
import random
import sys
import time
import traceback
import warnings

DEEP = "(" * 5000 + ")" * 5000
WHOLE = ("0", "-1", "1", "2", "3", "7", "16", "64", "1048576", "1048577", "2147483647",
         "2147483648", "4294967295", "4294967296", "-2147483649", "9223372036854775808",
         "1" + "0" * 30, "9" * 400, "9" * 5000)  # fmt: skip
POINTED = ("0.0", "-0.0", "-0.5", "0.5", "1.0", "1e-300", "1e-9", "5e30", "1e39", "1e300", "-1e39",
           "1e999", "nan", "inf", "-inf", "1_0.5", "0.1e")  # fmt: skip
PAIRS = ("(8,8)", "16,8", "(8,)", "(0,8)", "(8,8,8)", "(8,-8)", "[16,8]", "(True,8)", "1e1,8")
TUPLES = ("()", "(1,)", "(0,)", "(-1,)", "(1,2,3)", "(300,0,0)", "(2,2)", "(1048577,)", "[2]",
          "('a','b','c')", "(None,)", "(1e39,)", "(1.5,)", "((1,),)", "1,2", "(4,)*3",
          str((1,) * 3000))  # fmt: skip
ODD = ("", " ", "x", "None", "True", "{}", "{[1]:2}", "{1:2}", "{[]}", DEEP, "[" * 200, "1j",
       "b'x'",
       "²", "\u0661\u0662", "1_000", "0x10", "...", "lambda: 0", "\x1b[31mred",
       "\udcff", "é" * 3000, "1 2", "--", "-", "'", "f'{1}'", "__import__('os')", "\n", "-1e400",
       "null", "a" * 100_000)  # fmt: skip
TEXTS = ("toy", "toy:clips=64", "toy:clips=0", "toy:clips=-1,seed=x", "toy:seed=99999999999",
         "/nowhere", "adam", "jit", "mesh", "pmap", "center", "png", "best")  # fmt: skip


def value(rng: random.Random) -> str:
    """Draws the text of a value."""
    return rng.choice(rng.choice((WHOLE, WHOLE, POINTED, POINTED, PAIRS, TUPLES, ODD, TEXTS)))


def near(rng: random.Random, now: object) -> str:
    """Draws the text of a value that is like another: perhaps a good one."""
    if isinstance(now, bool):
        return str(not now)
    if isinstance(now, tuple) and now:
        changed = [*now]
        at = rng.randrange(len(now))
        if isinstance(now[at], int):
            changed[at] = int(near(rng, now[at]))
        cut = rng.choice((changed, changed, changed[:-1], changed * 2, changed[::-1]))
        return str(tuple(cut))
    if isinstance(now, (int, float)):
        return str(
            rng.choice((0, 1, 2, now + 1, now - 1, 2 * now, 3 * now, 10 * now, 1000 * now, -now))
        )
    return value(rng)


def configs_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes a config file of each family of methods, the smallest there are; returns them."""
    import test_families
    from conftest import TINY_GENERATOR

    from vidgen import config as configs
    from vidgen import methods

    made = {name: make() for name, make in test_families.FAMILIES.items()}
    for method in test_families.FITTED_METHODS:
        made[method] = methods.base(method)
        made[method].data.update(path="toy:clips=64", frames=6, size=16)
        made[method].training.kclips = 0.032
        made[method].sampling.update(frames=6, clips=2)
        if method == "untrained":
            made[method].generator.update(TINY_GENERATOR)
    files = {}
    for name, config in made.items():
        files[name] = folder / f"{name}.py"
        files[name].write_text(
            "from vidgen import config as configs\n\n\n"
            f"def get_config():\n    return configs.from_json({configs.to_json(config)!r})\n"
        )
    return files


BAD_CONFIGS = {
    "none": "def get_config(): return None",
    "a_list": "def get_config(): return [1]",
    "raises": "def get_config(): raise KeyError('x')",
    "raises_odd": "class E(BaseException): pass\ndef get_config(): raise E",
    "exits": "import sys\ndef get_config(): sys.exit(0)",
    "exits_at_import": "import sys\nsys.exit(0)",
    "recurses": "def get_config(): return get_config()",
    "wrong_syntax": "def get_config( return",
    "null_byte": "x = '\0'",
    "wants_arguments": "def get_config(size): return size",
    "no_function": "x = 1",
    "number": "get_config = 3",
    "empty_dict": "from ml_collections import ConfigDict\nget_config = ConfigDict",
    "method_of_none": "from ml_collections import ConfigDict\n"
    "def get_config(): return ConfigDict({'method': None})",
    "no_sections": "from ml_collections import ConfigDict\n"
    "def get_config(): return ConfigDict({'method': 'gan', 'seed': 0})",
    "section_is_number": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.data\n c.data = 3\n return c",
    "network_is_number": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.generator\n c.generator = 3\n return c",
    "limits_is_none": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.data.limits\n c.data.limits = None\n return c",
    "kind_is_list": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.generator.kind\n c.generator.kind = [1]\n"
    " return c",
    "field_is_section": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.seed\n c.seed = {'a': 1}\n return c",
    "field_is_array": "import numpy\nfrom vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.seed\n c.seed = numpy.zeros(3)\n return c",
    "field_is_object": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.data.path\n c.data.path = object()\n return c",
    "widths_of_arrays": "import numpy\nfrom vidgen import methods\n"
    "def get_config():\n c = methods.base()\n c.data.path = 'toy'\n"
    " c.generator.widths = tuple(numpy.array([8, 8]))\n return c",
    "schedule_is_number": "from vidgen import methods\n"
    "def get_config():\n c = methods.base()\n del c.optimizer.learning_rate\n"
    " c.optimizer.learning_rate = 1e-3\n return c",
    "not_python": "\udcff",
}  # fmt: skip


def make_folder(folder: pathlib.Path) -> None:
    """Makes what the lines name: configs, runs, clips, reports."""
    import numpy as np

    from vidgen.cli import config_flags
    from vidgen.run import train

    (folder / "configs").mkdir()
    (folder / "bad").mkdir()
    files = configs_of(folder / "configs")
    for name, text in BAD_CONFIGS.items():
        (folder / "bad" / f"{name}.py").write_bytes(text.encode("utf8", "surrogateescape"))
    (folder / "bad" / "folder.py").mkdir()
    (folder / "bad" / "config.txt").write_text("x")
    train.train(config_flags.read([f"--config={files['untrained']}"]), folder / "run")
    clips = np.random.default_rng(0).integers(0, 255, (16, 20, 16, 16, 3), np.uint8)
    np.save(folder / "clips.npy", clips)
    (folder / "empty").mkdir()
    (folder / "text").write_text("no clips")
    (folder / "report.json").write_text("{}")
    (folder / "list.json").write_text("[[1]]")
    (folder / "figures.json").write_text('{"step": "x"}')


def flag_values(rng: random.Random, flag: str) -> str:
    """Draws what a flag of a command is given: often something of its kind."""
    good = {
        "workdir": ("new", "run", "", ".", "text", "text/below", "/proc/new", "x" * 300),
        "init_from": ("run", "nowhere", "", "text", "empty"),
        "processes": ("1", "2", "0", "100000"),
        "max_restarts": ("0", "3"),
        "heartbeat": ("10", "2", "nan", "inf", "1e-3", "-1", "1e300"),
        "devices": ("0", "2", "-1", "100000"),
        "seeds": ("0:4", "7", "1,2", "0:10000000000", "4294967295", "4294967296", "5:1", "-3",
                  "0:", ":", "1:2:3", "²", "1.5", "0:2,7", "," * 3000),
        "frames": ("1", "8", "0", "-1", "1000000000", "2147483647"),
        "start": ("0", "5", "-1", "2147483000", "1" + "0" * 30),
        "labels": ("0", "1", "²", "disc", "square,disc", "", ",", "9" * 5000, "-1", "\u0661"),
        "what": ("content", "motion,class", "colour", "", ",", "content," * 2000),
        "by": ("brightness", "motion", "age", ""),
        "speed": ("2", "-1", "0.5", "0", "nan", "1000", "1e300"),
        "amount": ("0.5", "0", "-1", "1", "1000", "nan"),
        "latents": ("latents.npz", "text", "nowhere", "", "clips.npy", "run"),
        "save": ("kept.npz", "clip.npz", "a.txt", "", "text/a.npz"),
        "step": ("best", "1", "32", "²", "-1", "9" * 5000),
        "fps": ("10", "-5", "nan", "inf", "0", "1e-9", "1e300"),
        "out": ("samples", "clip.mp4", "clip.png", "clips.npz", "", "text", "text/a.mp4", "a.xyz",
                "run", "clip.avi", "x" * 300 + ".mp4", "a.gif", "/proc/x.mp4", "frames/"),
        "format": ("mp4", "png", "npz", "frames", "gif", "mov", ""),
        "quality": ("50", "-1", "101", "nan", "inf"),
        "clips": ("8", "0", "-1", "7", "1000000000000"),
        "against": ("clips.npy", "toy", "/nope.json", "", "figures.json", "list.json", "text",
                    "empty", "report.json", "."),
        "protocol": ("pixel", "quick", "fvd16", "bogus", ""),
        "size": ("16", "16,16", "0", "²", "8,8,8", "1000000", "99999999999"),
        "stride": ("1", "2", "0", "1000000", "²"),
        "seed": ("0", "4294967295", "4294967296", "1" + "0" * 30),
        "weights": ("text", "nowhere", ""),
        "change": ("frozen", "bogus", ""),
        "metrics": ("toy", "acd", "fvd"),
        "compare": ("report.json report.json", "run run", "text nowhere"),
        "plot": ("p.svg", "p.png", "p.gif", "", "text/p.svg", "nowhere/p.svg"),
        "sheet": ("s.png", "", "text/s.png", "s.jpg"),
        "json": ("f.json", "", "text/f.json", "."),
    }  # fmt: skip
    if flag in good and rng.random() < 0.7:
        return rng.choice(good[flag])
    return value(rng)


def fields_of(path: str) -> dict[str, object]:
    """Returns the fields of a config file, with their values."""
    from vidgen import config as configs
    from vidgen.cli import config_flags

    if path not in _FIELDS:
        _FIELDS[path] = configs.flatten(config_flags.read([f"--config={path}"]))
    return _FIELDS[path]


_FIELDS: dict[str, dict[str, object]] = {}


def draw(rng: random.Random, folder: pathlib.Path) -> list[str]:
    """Draws a command line; paths are below `folder`, which is where it is run."""
    from vidgen.cli import edits, flags

    more = [*["train"] * 12, *["sample"] * 3, *["edit"] * 3, *["evaluate"] * 3]
    name = rng.choice([*flags.PARSERS, *more])
    if rng.random() < 0.02:
        return [
            rng.choice((name, "trian", "", *ODD)),
            *(value(rng) for _ in range(rng.randrange(3))),
        ]
    parser = flags.PARSERS[name][1]()
    words = name.split()
    known = [f for f in parser.known() if not f.startswith(("--config", "--help", "--debug"))]
    if parser.config and (name not in ("data inspect", "config") or rng.random() < 0.5):
        files = sorted(str(p.relative_to(folder)) for p in (folder / "configs").glob("*.py"))
        file = rng.choice(files)
        if rng.random() < 0.12:
            bad = sorted(str(p.relative_to(folder)) for p in (folder / "bad").iterdir())
            file = rng.choice([*bad, "nowhere.py", "", "text", "bad", *ODD])
            words.append(f"--config={file}")
        else:
            words.append(f"--config={file}")
            some = rng.sample(sorted(fields_of(file)), rng.choice((0, 1, 1, 1, 2, 4)))
            for field in some:
                if rng.random() < 0.02:
                    field = rng.choice((field[:-1], field + ".x", field.split(".")[0], "", "."))
                now = fields_of(file).get(field)
                drawn = near(rng, now) if rng.random() < 0.4 else value(rng)
                words.append(f"--config.{field}={drawn}")
    need = {
        "train": ["workdir"], "launch": ["processes"], "evaluate": ["against"]
    }.get(name, [])  # fmt: skip
    places = {
        "sample": ["run"], "reconstruct": ["run", "clips.npy"], "evaluate": ["run"],
        "edit": ["run", rng.choice((*edits.EDITS, "blur"))],
        "compare": ["report.json"], "data inspect": ["clips.npy"], "data pack": ["clips.npy"],
        "checkpoint verify": ["run"],
    }.get(name, [])  # fmt: skip
    for place in places:
        if rng.random() < 0.15:
            place = rng.choice(("nowhere", "text", "empty", "", "toy", "clips.npy", "run", ".",
                                "list.json", *ODD))  # fmt: skip
        if rng.random() < 0.98:
            words.append(place)
    for flag in known:
        plain = flag[2:]
        if (plain in need and rng.random() < 0.97) or rng.random() < 0.15:
            given = "new" if plain in need and rng.random() < 0.6 else flag_values(rng, plain)
            if parser._option_string_actions[flag].nargs == 0:
                words.append(flag)
            elif parser._option_string_actions[flag].nargs == 2:
                words += [flag, *given.split()]
            elif rng.random() < 0.9:
                words.append(f"{flag}={given}")
            else:
                words += [flag, given]
    if rng.random() < 0.03:
        words.append(rng.choice((*ODD, "--bogus", "--bogus=1", "-x", "--top_k=3")))
    if name == "launch" and rng.random() < 0.9:
        words += ["--", "train"]
    return words


class Begun(BaseException):
    """Work would begin here."""


def stop_where_work_begins(trace: int) -> None:
    """Puts `Begun` where each command would read clips, compile, or start processes.

    Args:
      trace: Of every n-th config that a training would begin with, its steps are traced; 0: none.
    """
    import jax

    from vidgen.cli import commands
    from vidgen.data import inspect, pack
    from vidgen.evaluation import evaluate
    from vidgen.run import artifacts
    from vidgen.sampling.sampler import Sampler
    from vidgen.tools import doctor, estimate, launch

    begun_so_far = itertools.count(1)

    def begun(*_, **__):
        raise Begun

    def open_clips(config, *_):
        if trace and next(begun_so_far) % trace == 0:
            trace_steps(config)
        raise Begun

    def no_cluster(**_):
        raise ValueError("coordinator_address should be defined.")

    jax.distributed.initialize = no_cluster  # which must be called before anything else of JAX
    artifacts.open_clips = estimate.dry_run = open_clips
    launch._run = inspect.inspect = pack.open_store = doctor.facts = evaluate.Windows = begun
    Sampler._draw = Sampler._decode_batch = begun
    commands.process.keep_programs = lambda: None


def trace_steps(config) -> None:
    """Traces the steps of a config that was taken: by shapes alone, which raises if one cannot."""
    import jax
    import numpy as np

    from vidgen import methods
    from vidgen.frame_size import height_width

    if methods.is_fitted(config.method):
        return
    experiment = methods.experiment(config, 2)
    state = jax.eval_shape(experiment.init, config.seed)
    clips = (config.training.batch_size,)
    video = (*clips, config.data.frames, *height_width(config.data.size), 3)
    batch = {name: jax.ShapeDtypeStruct(clips, np.int32) for name in ("index", "label")}
    batch["video"] = jax.ShapeDtypeStruct(video, np.uint8)
    for step in experiment.steps.values():
        jax.eval_shape(step, state, batch)


def run(words: list[str]) -> dict[str, object]:
    """Runs a command line; returns its code ("begun" where work would begin), words and seconds."""
    main = importlib.import_module("vidgen.cli.main").main
    out = io.TextIOWrapper(io.BytesIO(), "utf8", write_through=True)  # as strict as a terminal
    err, before, trace = io.StringIO(), time.process_time(), ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except Begun:
            code = "begun"
        except BaseException:
            code, trace = "traceback", traceback.format_exc()
    seconds = time.process_time() - before
    return {"code": code, "err": err.getvalue()[:4000], "trace": trace[-4000:], "seconds": seconds}


def no_ranges() -> None:
    """Sabotage: no value of a field is out of its range."""
    from vidgen.config import checks

    checks.check = lambda name, value, field: None


def words_as_they_are() -> None:
    """Sabotage: whatever was given goes to the terminal as it is."""
    from vidgen.cli import main

    main.plain = lambda text, most=0: text


SABOTAGES = {"no ranges": no_ranges, "words as they are": words_as_they_are}


def main() -> None:
    """Runs lines; see the module."""
    asked = json.loads(sys.argv[1])
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = pathlib.Path(asked["folder"])
    if not (folder / "configs").is_dir():
        make_folder(folder)
    os.chdir(folder)
    warnings.simplefilter("error")
    stop_where_work_begins(asked.get("trace", 0))
    for number in range(asked.get("first", 0), asked["count"]):
        words = draw(random.Random(f"{asked['seed']} {number}"), folder)
        if number == asked.get("first", 0) and asked.get("sabotage"):
            SABOTAGES[asked["sabotage"]]()
        print(json.dumps({"number": number, "words": words}), flush=True)
        print(json.dumps(run(words)), flush=True)


if __name__ == "__main__":
    main()
