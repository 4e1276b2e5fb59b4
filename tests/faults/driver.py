"""Starts trainings quickly: a process that has imported everything, and forks one for each.

It has one thread and no devices when it forks, so that a child is as good as a fresh process. Reads
lines of JSON, `{"config": ..., "workdir": ..., "output": ..., "sabotage": ...}`; answers each with
the child's number, and with its exit code when it has ended.
"""

import json
import os
import sys


def child(config, workdir, output, sabotage):
    """Trains as `vidgen train` does; never returns."""
    from vidgen import config as configs
    from vidgen.errors import VidgenError
    from vidgen.run import train

    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if sabotage:
        SABOTAGES[sabotage]()
    code = 1
    try:
        train.train(configs.from_json(config), workdir)
        code = 0
    except VidgenError as error:
        print(f"vidgen: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def forget_average():
    """Sabotage: the average is not saved; what takes its place are the generator's parameters."""
    from vidgen.runtime.checkpoint import Checkpoints

    save = Checkpoints.save
    Checkpoints.save = lambda self, step, items, meta: save(
        self, step, {**items, "ema": items["train"].gen}, meta
    )


def append_only():
    """Sabotage: what was logged beyond the checkpoint stays in metrics.jsonl."""
    from vidgen.run import metrics_log

    metrics_log._rewrite = lambda path, lines: None


def small_files():
    """From the save of step 6 on, no file may grow beyond 12 KB: stands for a full disk."""
    import resource
    import signal

    from vidgen.runtime.checkpoint import Checkpoints

    save = Checkpoints.save

    def limited(self, step, items, meta):
        if step >= 6:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (12288, 12288))
        save(self, step, items, meta)

    Checkpoints.save = limited


SABOTAGES = {
    "small files": small_files,
    "forget average": forget_average,
    "append only": append_only,
}


def main():
    """Imports, then forks a child for each line."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import av
    import PIL.Image
    import tensorboardX

    import vidgen.methods.gan
    from vidgen.run import train

    del av, PIL, tensorboardX, vidgen, train
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
    for line in sys.stdin:
        asked = json.loads(line)
        number = os.fork()
        if not number:
            child(**asked)
        print(number, flush=True)
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
