"""Kill -9 at random moments, many of them in the middle of a save: as if nothing had been."""

import os
import pathlib
import signal
import time

import numpy as np
import pytest
from harness import Driver, check_same_run, small_config
from programs import keep_programs

KILLS = int(os.environ.get("FAULTS_KILLS", "200"))
STEPS = 12


def config():
    return small_config(steps=STEPS, save=1, sample=4)


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    keep_programs(monkeypatch)


@pytest.fixture(scope="module")
def driver():
    with Driver() as started:
        yield started


@pytest.fixture(scope="module")
def whole(driver, tmp_path_factory):
    """The run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    driver.start(config(), workdir)
    assert driver.wait() == 0, said(workdir)
    return workdir


def said(workdir):
    return pathlib.Path(f"{workdir}.txt").read_text()


def saving(workdir):
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))


def wait_for_save(driver, workdir):
    while not saving(workdir) and driver.running():
        time.sleep(0.0002)


class Killer:
    """Runs trainings and kills them.

    Attributes:
      kills: How many were killed.
      in_save: In how many of them a save was under way.
      runs: How many were finished, and compared.
    """

    def __init__(self, driver, whole, folder, sabotage=""):
        self.driver, self.whole, self.folder, self.sabotage = driver, whole, folder, sabotage
        self.rng = np.random.default_rng(0)
        self.kills, self.in_save, self.runs = 0, 0, 0
        self.life = 4.0  # seconds that a start takes to its end

    def strike(self, kills, each=8):
        """Kills so often, at most `each` times in one run; every run is then finished."""
        while self.kills < kills:
            workdir = self.folder / f"run-{self.runs}"
            for _ in range(min(each, kills - self.kills)):
                if self._start_and_kill(workdir):
                    break
            self._finish(workdir)

    def _start_and_kill(self, workdir):
        """Returns whether the run ended first."""
        self.driver.start(config(), workdir, self.sabotage)
        if self.rng.random() < 0.6:  # in a save, or soon after
            for _ in range(self.rng.integers(1, 4)):
                wait_for_save(self.driver, workdir)
                time.sleep(self.rng.uniform(0, 0.03))
        else:
            time.sleep(self.rng.uniform(0, self.life))
        if not self.driver.running():
            code = self.driver.wait()
            assert code == 0, said(workdir)
            return True
        os.kill(self.driver.pid, signal.SIGKILL)
        code = self.driver.wait()
        if code == -signal.SIGKILL:
            self.kills += 1
            self.in_save += saving(workdir)
        return code == 0

    def _finish(self, workdir):
        began = time.monotonic()
        self.driver.start(config(), workdir, self.sabotage)
        assert self.driver.wait() == 0, said(workdir)
        self.life = time.monotonic() - began + 1.0
        check_same_run(workdir, self.whole, STEPS)
        assert {p.name for p in workdir.rglob("*") if "tmp" in p.name or p.name[0] == "."} == set()
        self.runs += 1


def test_a_kill_in_a_save_changes_no_bit(driver, whole, tmp_path):
    killer = Killer(driver, whole, tmp_path)
    killer.strike(2)
    assert killer.kills == 2


@pytest.mark.faults
def test_200_kills_change_no_bit(driver, whole, tmp_path, capfd):
    began = time.monotonic()
    killer = Killer(driver, whole, tmp_path)
    killer.strike(KILLS)
    with capfd.disabled():
        print(
            f"\n{killer.kills} kills, {killer.in_save} of them in mid-save, in {killer.runs} runs, "
            f"{time.monotonic() - began:.0f} s; 0 bits different"
        )
    assert killer.in_save >= KILLS / 8


@pytest.mark.faults
@pytest.mark.parametrize("sabotage", ["forget average", "append only"])
def test_a_sabotaged_save_is_seen(driver, whole, tmp_path, sabotage):
    with pytest.raises(AssertionError):
        Killer(driver, whole, tmp_path, sabotage).strike(16)
