"""The service's life on one machine: Ray started for it alone, the replicas waited for, the last
answers given."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException

from icd_engine.errors import RunnerError
from icd_engine.placement import Placement
from icd_engine.serving.limits import Limits
from icd_engine.serving.offer import Offer
from icd_engine.threads import usable_processors

LAST_BYTES = 1.0  # seconds in which the proxy hands over what the front has answered
POLL = 0.25  # seconds
START = 60  # seconds that Ray's proxy may take to start
# Seconds between questions to the service; without an answer, and it is given up
PULSE, SILENCE = 5.0, 60.0


def start(
    host: str,
    port: int,
    token: str | None,
    model: str,
    placement: Placement,
    limits: Limits,
    offer: Offer,
) -> None:
    """Returns when the service answers; its replicas go on loading.

    Raises RunnerError where Ray is not installed or does not start, the port is taken or there are
    fewer GPUs than replicas.
    """
    _check_port(host, port)
    _keep_to_ourselves()
    try:
        import ray
        from ray import serve

        from icd_engine.serving.deployment import LOGGING, NAME, parts
    except ModuleNotFoundError as error:
        raise RunnerError(
            f"the service needs more packages ({error}): pip install 'icd-engine[serve]'"
        ) from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # a core is left to the front and the proxy
    threads = max(1, (usable_processors() - 1) // limits.replicas)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.WARNING,
            num_cpus=threads * limits.replicas,
        )
        resources = {
            "num_cpus": threads,
            **_gpu(placement.device, int(ray.cluster_resources().get("GPU", 0)), limits),
        }
        serve.start(http_options={"host": host, "port": port}, logging_config=LOGGING)
        target = serve.RunTarget(
            parts(resources, model, placement, limits, token, offer), name=NAME
        )
        serve.run_many([target], wait_for_applications_running=False)
    except RunnerError:
        raise
    except Exception as error:  # Ray's own are many, and each is a page long
        ray.shutdown()
        raise RunnerError(f"Ray did not start the service: {_last_line(str(error))}") from None


def wait_until_warm(stopped: Callable[[], bool]) -> bool:
    """Whether the replicas are warm; False if `stopped` first.

    Raises RunnerError where they cannot load the model.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    from icd_engine.serving.deployment import NAME

    while not stopped():
        status = serve.status().applications[NAME]
        if status.status == ApplicationStatus.RUNNING:
            return True
        if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise RunnerError(_reason(status.deployments["Replica"].message))
        time.sleep(POLL)
    return False


def stop(seconds: float) -> None:
    """Refuses what comes, answers what came, for `seconds` at most, and ends every process."""
    import ray
    from ray import serve

    from icd_engine.serving.deployment import NAME

    try:
        serve.get_app_handle(NAME).drain.remote().result(timeout_s=seconds)
        time.sleep(LAST_BYTES)
    except Exception as error:  # a front that is lost or late must not keep the rest alive
        logging.getLogger("ray.serve").warning(
            "not every request was answered: %s", type(error).__name__
        )
    ray.shutdown()  # the whole cluster is ours: nothing is left that Serve would have to end


def watch(host: str, port: int, silent: Callable[[], None]) -> None:
    """Calls `silent`, in a thread, when the service has not answered for SILENCE.

    Ray starts lost replicas, fronts and proxies anew, but where it is itself lost, its calls wait
    without end.
    """

    def listen() -> None:
        heard = time.monotonic()
        while time.monotonic() - heard < SILENCE:
            time.sleep(PULSE)
            connection = HTTPConnection(host, port, timeout=PULSE)
            with suppress(OSError, HTTPException), closing(connection):
                connection.request("GET", "/health")
                connection.getresponse()
                heard = time.monotonic()
        silent()

    threading.Thread(target=listen, daemon=True).start()


def _keep_to_ourselves() -> None:
    """Ray's own ports listen on this machine only, and answer only those who know a secret: whoever
    reaches them can run code. Ray reads this when it is imported."""
    # The one way to have the loopback address on Linux
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray puts back all its workers alike; here those that edit give way to those that answer
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A proxy that is slow to start, on a machine with much to do, is not lost
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(START))


def _check_port(host: str, port: int) -> None:
    """Serve would start all the same, and answer nobody."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise RunnerError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def _gpu(device: str, found: int, limits: Limits) -> dict[str, int]:
    """A GPU for each replica, where the device asks for one. Raises RunnerError."""
    if device == "cpu" or (device == "auto" and found == 0):
        return {}
    if found < limits.replicas:
        raise RunnerError(f"{limits.replicas} replicas need a GPU each, and there are {found}")
    return {"num_gpus": 1}


def _reason(message: str) -> str:
    """The last line of a remote traceback that says something."""
    return f"the model does not load: {_last_line(message)}"


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "see the log"
