"""The Java that runs Spark on this machine: found, or asked for in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dbllm import ConfigError

OLDEST_JAVA = 17
_NEEDED_MODULE = "jdk.incubator.vector"  # Spark's launcher asks for it
_FOLDERS = ("/usr/lib/jvm", "/Library/Java/JavaVirtualMachines")


def java_home() -> Path:
    """The folder of a Java that runs Spark: that of JAVA_HOME, the first on PATH, or one that the system has.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    passed_over = []
    for home in _candidates():
        why = _why_unusable(home)
        if why is None:
            return home
        passed_over.append(f"{home} {why}")
    found = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise ConfigError(f"Spark needs Java {OLDEST_JAVA} or newer, and there is none{found}: {_how_to_install()}.")


def _candidates() -> list[Path]:
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if (program := shutil.which("java")) is not None:
        homes.append(Path(program).resolve().parent.parent)
    for folder in map(Path, _FOLDERS):
        if folder.is_dir():
            homes += [home if (home / "bin").is_dir() else home / "Contents/Home" for home in sorted(folder.iterdir())]
    return list(dict.fromkeys(homes))


def _why_unusable(home: Path) -> str | None:
    """Why Spark cannot run on the Java of a folder; None: it can."""
    program = home / "bin" / ("java.exe" if sys.platform == "win32" else "java")
    if not program.is_file():
        return "has no bin/java"
    try:
        version = _program_output(str(program), "-version")
        modules = _program_output(str(program), "--list-modules")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    number = re.search(r'version "(?:1\.)?(\d+)', version)
    if number is None:
        return "does not tell its version"
    if int(number[1]) < OLDEST_JAVA:
        return f"is version {number[1]}"
    return None if _NEEDED_MODULE in modules else f"lacks the module {_NEEDED_MODULE}"


def _program_output(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    return done.stdout.decode("utf-8", "replace")


def _how_to_install() -> str:
    if sys.platform == "darwin":
        return "brew install openjdk@17, and set JAVA_HOME"
    if sys.platform == "win32":
        return "winget install EclipseAdoptium.Temurin.17.JRE, and set JAVA_HOME"
    return "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
