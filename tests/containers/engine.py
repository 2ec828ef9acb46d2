"""A Docker engine, and in it an image to run functions in: the user's engine where one answers, else one of our own."""

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.local.template import ARCHITECTURE

from . import image

BUILD = ["sam", "build", "--parameter-overrides", f"Architecture={ARCHITECTURE}"]
"""What makes the functions for this machine."""

IMAGE = f"public.ecr.aws/lambda/python:3.13-{ARCHITECTURE}"
"""The name by which `sam local` asks for Lambda's base image."""

MADE_BY_SAM = "samcli/lambda-python*"
"""What it makes of that with the layer of the template."""

WITH_LAYER = "stripe-cognito-gateway/lambda-python"
"""The same, made once for all functions."""

PACKAGES = {"dockerd": "docker.io", "docker": "docker-cli", "iptables": "iptables", "ip": "iproute2"}
"""The commands that an engine of our own takes, and Debian's packages of them. Before Debian 13, docker.io has both."""

SECONDS_TO_START = 60
SECONDS_TO_PULL = 300


class EngineError(Exception):
    """No function can be run in a container; the message says what to do."""


def docker(*arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """What the docker command says; `returncode` may be anything."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, "", f"no answer within {seconds} s")


def answers() -> bool:
    """Whether an engine answers the docker command."""
    return bool(shutil.which("docker")) and docker("version", seconds=10).returncode == 0


def gateway() -> str:
    """The address of this machine on the bridge that containers are on."""
    found = docker("network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}")
    if found.returncode:
        raise EngineError("the Docker engine has no bridge network that containers could reach this machine by")
    network = json.loads(found.stdout)[0]
    return network.get("Gateway") or str(next(ipaddress.ip_network(network["Subnet"]).hosts()))


@contextmanager
def engine() -> Iterator[None]:
    """In this block an engine answers. Our own leaves nothing behind."""
    if answers():
        yield
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise EngineError(
            "no Docker engine answers (`docker version`). Start one, or run this as root on Debian, where it installs "
            "and starts one of its own"
        )
    _install()
    if answers():  # where services run, installing it starts it
        yield
        return
    with (
        tempfile.TemporaryDirectory(prefix="containers-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        _bridge() as bridge,
        _daemon(Path(folder), bridge),
    ):
        yield


def _install() -> None:
    """Installs the packages of the commands that are missing."""
    updated = None
    for command, package in PACKAGES.items():
        if shutil.which(command):
            continue
        print(f"Installing {package} from Debian's packages", file=sys.stderr)
        # One source of many that does not answer fails the update, and hinders nothing if it is not the one needed.
        updated = updated or _apt("update")
        installed = _apt("install", "--yes", "--no-install-recommends", package)
        if installed.returncode:
            raise EngineError(f"apt-get cannot install {package}:\n{updated.stdout}\n{installed.stdout}")


def _apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "--quiet", "--option", "DPkg::Lock::Timeout=300", "--option", "Acquire::Retries=3", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@contextmanager
def _bridge() -> Iterator[str]:
    """A network of its own, so that two engines on one machine do not give out the same addresses."""
    number = next(each for each in range(256) if not Path(f"/sys/class/net/containers{each}").exists())
    name = f"containers{number}"
    # With an address that it keeps. Else a bridge takes the lowest of its containers', changes it as they come and go,
    # and what the others still send to the old one is lost.
    address = f"02:00:ac:1e:{number:02x}:01"
    subprocess.run(["ip", "link", "add", name, "address", address, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", f"172.30.{number}.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False)


@contextmanager
def _daemon(folder: Path, bridge: str) -> Iterator[None]:
    """An engine whose data and socket lie in this folder. It touches neither firewall nor routes: what runs in it
    reaches this machine, and nothing else."""
    log = folder / "log"
    os.environ["DOCKER_HOST"] = f"unix://{folder}/socket"  # for the docker command and the SAM CLI
    options = {
        "host": os.environ["DOCKER_HOST"],
        "data-root": folder / "data",
        "exec-root": folder / "run",
        "pidfile": folder / "pid",
        "bridge": bridge,
        **dict.fromkeys(("iptables", "ip6tables", "ip-forward", "ip-masq"), "false"),
    }
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            ["dockerd", *(f"--{name}={value}" for name, value in options.items())],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests; the engine ends after them
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"dockerd did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        yield
    finally:
        if left := docker("ps", "--all", "--quiet").stdout.split():
            docker("rm", "--force", *left)
        daemon.terminate()
        daemon.wait()


@contextmanager
def images(packages: Path, layer: Path) -> Iterator[str]:
    """In this block the engine has Lambda's base image (its own, else AWS's, else our stand-in) and
    that with our layer. Says which it is."""
    has_one = docker("image", "inspect", IMAGE).returncode == 0
    pulled = has_one or docker("pull", IMAGE, seconds=SECONDS_TO_PULL).returncode == 0
    try:
        _remove(*_named(WITH_LAYER))  # of a run that was killed
        if not pulled:
            _import(packages)
        _add(layer)
        yield "AWS's image" if pulled else "the stand-in of AWS's image, which cannot be pulled"
    finally:  # the engine may be the user's
        _remove(*_named(WITH_LAYER))
        if not pulled:
            _remove(*_named(MADE_BY_SAM, "--filter", f"since={IMAGE}"), IMAGE)


def _named(name: str, *options: str) -> list[str]:
    return docker("images", "--format", "{{.Repository}}:{{.Tag}}", *options, name).stdout.split()


def _remove(*names: str) -> None:
    if names:
        docker("image", "rm", "--force", *names)


def _import(packages: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image.fill(Path(folder), packages)
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as packed:
            done = subprocess.run(
                ["docker", "import", "-", IMAGE], stdin=packed.stdout, capture_output=True, text=True, check=False
            )
    if packed.returncode or done.returncode:
        raise EngineError(f"the stand-in of Lambda's image cannot be imported: {done.stderr}")


def _add(layer: Path) -> None:
    """`sam local` adds a layer of the template to the image anew at every start, which takes most of the time."""
    with tempfile.NamedTemporaryFile("w", suffix=".dockerfile") as recipe:
        recipe.write(f"FROM {IMAGE}\nCOPY . /opt\n")
        recipe.flush()
        done = docker("build", "--quiet", "--tag", WITH_LAYER, "--file", recipe.name, str(layer))
    if done.returncode:
        raise EngineError(f"the layer cannot be added to Lambda's image: {done.stderr}")
