"""Compiled programs that the runs of a test process share: most of their time is tracing."""

import jax
import jax.numpy as jnp

from vidgen import config as configs
from vidgen import methods
from vidgen.runtime import devices

_BUILT, _PROGRAMS, _FIRST = {}, {}, {}


def keep_programs(monkeypatch, kind=""):
    """Lets runs of this process that compute the same share their compiled programs.

    Runs into whose step something was patched name that as their kind.
    """
    build, compiled, init = methods.experiment, devices.Placement.compile, devices.Placement.init

    def same(config):
        free = {n for n in methods.free_fields(config.method) if not n.startswith("parallel")}
        fields = configs.flatten(config).items()
        return str(sorted((n, v) for n, v in fields if n not in free))

    def kept_build(config, classes):
        key = kind, classes, same(config)
        if key not in _BUILT:
            _BUILT[key] = build(config, classes)
        return _BUILT[key]

    def kept_compile(self, step, state, batch=None):
        if (self, step) not in _PROGRAMS:
            _PROGRAMS[self, step] = compiled(self, step, state, batch)
        return _PROGRAMS[self, step]

    def kept_init(self, function, seed):
        key = self, function, seed
        if key not in _FIRST:
            _FIRST[key] = init(self, function, seed)
        return jax.tree.map(jnp.copy, _FIRST[key])

    monkeypatch.setattr(methods, "experiment", kept_build)
    monkeypatch.setattr(devices.Placement, "compile", kept_compile)
    monkeypatch.setattr(devices.Placement, "init", kept_init)
