"""Put servers that this project did not write into `.servers`, for the tests: `python install.py NAME…`.

What is there already is left alone. What cannot be had is said, and the tests that need it are skipped: this
ends with success in any case. Starts no server. Uses the standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("LC_SERVICE_TEST_SERVERS") or Path(__file__).parents[2] / ".servers")

AIMOCK = "1.43.0"
LITELLM = "1.106.2"
LLAMA_CPP_PYTHON = "0.3.36"  # its source package carries llama.cpp's


@dataclass(frozen=True)
class Place:
    """Where one server is kept; `reason` says why it is not there."""

    folder: Path

    @property
    def is_ready(self) -> bool:
        return (self.folder / "ready").exists()

    @property
    def reason(self) -> str:
        why = self.folder / "why-not"
        return why.read_text() if why.exists() else "not installed: make test-servers installs it"


class CannotBeHadError(Exception):
    """A server cannot be installed here and now."""


@dataclass(frozen=True)
class Shell:
    """Runs the commands of one installation, until a time that all of them share."""

    folder: Path
    deadline: float

    def run(self, *command: str | Path) -> None:
        program = shutil.which(command[0])
        if program is None:
            raise CannotBeHadError(f"{command[0]} is not installed")
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise CannotBeHadError("the time for installing was over; what was done is kept")
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  the arguments are all ours
                [program, *command[1:]],
                cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                status = process.wait(seconds)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)  # its children too: a build has many
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise CannotBeHadError(f"{Path(program).name} took too long; see {log.name}") from error
                raise
        if status:
            raise CannotBeHadError(f"{Path(program).name} failed; see {log.name}")


def install_aimock(shell: Shell) -> None:
    # a registry that cannot be reached is given up on at once
    patience = ("--fetch-retries=0", "--fetch-timeout=20000")
    quiet = ("--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error")
    shell.run("npm", "install", "--prefix", ".", *quiet, *patience, f"@copilotkit/aimock@{AIMOCK}")
    shell.run("node", "node_modules/@copilotkit/aimock/dist/cli.js", "--help")  # an old Node cannot


def install_litellm(shell: Shell) -> None:
    pip(shell, f"litellm[proxy]=={LITELLM}")
    shell.run(shell.folder / "venv" / "bin" / "litellm", "--version")


def install_llama(shell: Shell) -> None:
    pip(shell, "cmake", "ninja", "gguf")  # gguf writes the model that the tests make
    programs = shell.folder / "venv" / "bin"
    name = f"llama_cpp_python-{LLAMA_CPP_PYTHON}"
    archive = shell.folder / f"{name}.tar.gz"
    if not archive.exists():
        source = ("--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={LLAMA_CPP_PYTHON}")
        shell.run(programs / "python", "-m", "pip", "download", *PIP, *source)
    if not (shell.folder / name).exists():
        with tarfile.open(archive) as tar:
            tar.extractall(shell.folder, filter="data")
    settings = {
        "BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "OFF", "GGML_OPENMP": "OFF", "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF", "LLAMA_OPENSSL": "OFF", "CMAKE_BUILD_TYPE": "Release",
        # half the time of the build is optimizing, and a tiny model needs none of it
        "CMAKE_CXX_FLAGS_RELEASE": "-O0", "CMAKE_C_FLAGS_RELEASE": "-O1",
        "CMAKE_MAKE_PROGRAM": str(programs / "ninja"),
    }  # fmt: skip
    defines = [f"-D{key}={value}" for key, value in settings.items()]
    shell.run(programs / "cmake", "-S", f"{name}/vendor/llama.cpp", "-B", "build", "-G", "Ninja", *defines)
    shell.run(programs / "cmake", "--build", "build", "--target", "llama-server")
    shutil.copy2(shell.folder / "build" / "bin" / "llama-server", shell.folder)
    shell.run(shell.folder / "llama-server", "--version")
    for done in (name, "build"):
        shutil.rmtree(shell.folder / done)


PIP = ("--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20")


def pip(shell: Shell, *packages: str) -> None:
    """Install packages into the server's own virtual environment."""
    python = shell.folder / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(shell.folder / "venv", with_pip=True)
    shell.run(python, "-m", "pip", "install", *PIP, *packages)


INSTALLERS: dict[str, tuple[str, Callable[[Shell], None]]] = {
    "aimock": (AIMOCK, install_aimock),
    "litellm": (LITELLM, install_litellm),
    "llama": (LLAMA_CPP_PYTHON, install_llama),
}


def place_of(name: str) -> Place:
    return Place(HOME / f"{name}-{INSTALLERS[name][0]}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else installs into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(name: str, deadline: float) -> Place:
    """Install a server unless it is there.

    Args:
        name: One of `INSTALLERS`.
        deadline: When to give up, in seconds of `time.monotonic`.
    """
    place = place_of(name)
    if not place.is_ready:
        with alone(place.folder):
            why_not = place.folder / "why-not"
            why_not.unlink(missing_ok=True)
            try:
                if not place.is_ready:
                    INSTALLERS[name][1](Shell(place.folder, deadline))
                    (place.folder / "ready").touch()
            except (CannotBeHadError, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
                why_not.write_text(str(error))
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(INSTALLERS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=600, help="give up after so many in all")
    options = parser.parse_args()
    os.nice(10)
    deadline = time.monotonic() + options.seconds
    for name in options.names:
        started = time.monotonic()
        place = install(name, deadline)
        state = (
            f"ready ({time.monotonic() - started:.0f} s)"
            if place.is_ready
            else f"not to be had: {place.reason}"
        )
        sys.stdout.write(f"{name} {INSTALLERS[name][0]}: {state}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
