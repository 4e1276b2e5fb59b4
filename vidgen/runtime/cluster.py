"""The processes of one run: joining them, and waiting for one another."""

import itertools
import os
from typing import Any

import jax
from orbax.checkpoint import multihost

from vidgen.errors import ConfigError

_MEETINGS = itertools.count()  # so that no two have the same name


def connect() -> None:
    """Joins this process with the others of a run; before any device is looked at.

    Which they are, the environment says: VIDGEN_COORDINATOR (`host:port`), VIDGEN_PROCESSES and
    VIDGEN_PROCESS where they are set, as `vidgen launch` does; otherwise what JAX finds out about
    a TPU pod, SLURM, Open MPI or Kubernetes.

    Raises:
      ConfigError: They are not set, and there is no such cluster.
    """
    # JAX's own handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    known: dict[str, Any] = {}
    if address := os.environ.get("VIDGEN_COORDINATOR"):
        try:
            known = {
                "coordinator_address": address,
                "num_processes": int(os.environ["VIDGEN_PROCESSES"]),
                "process_id": int(os.environ["VIDGEN_PROCESS"]),
                # Inside a SLURM step JAX would give every process the first device otherwise.
                "cluster_detection_method": "deactivate",
            }
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"VIDGEN_COORDINATOR is set, and VIDGEN_PROCESSES or VIDGEN_PROCESS is not a "
                f"number ({error})",
                "set all three: host:port, how many processes, and which this one is",
            ) from error
    try:
        jax.distributed.initialize(**known)
    except ValueError as error:
        raise ConfigError(
            f"config.parallel.distributed is True, and no cluster was found ({error})",
            "set VIDGEN_COORDINATOR, VIDGEN_PROCESSES and VIDGEN_PROCESS, or use vidgen launch",
        ) from error


def meet(where: str) -> None:
    """Waits until every process has come here.

    Not by a collective: those give up on a process that is half a minute late (Gloo, on CPUs).
    """
    if jax.process_count() > 1:
        wait: Any = multihost.get_barrier_sync_fn()
        wait(key=f"{where} {next(_MEETINGS)}", timeout_ms=3_600_000)
