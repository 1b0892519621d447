"""A stand-in for the `conda` program, on py-rattler: it answers the calls that Snakemake 9 makes, and no others.

It solves and installs for real, from the local channel of `make_channel`, which it takes for conda-forge; the `pip:`
section of an environment file goes to the new environment's own pip, as with conda. What it cannot tell is whether a
package exists in the true conda-forge.

    python stand_in.py ROOT env create --quiet --no-default-packages --file environment.yml --prefix PREFIX

ROOT is the installation: the program and `activate` in `bin`, the channel in `channel`, unpacked packages in `pkgs`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

VERSION = "24.7.1"  # the oldest that Snakemake accepts
LOCAL_NAMES = {"conda-forge", "nodefaults"}


class CondaError(Exception):
    """What the user of conda is told."""


def install(root: Path, prefix: Path, specs: list[str]) -> None:
    """Solve `specs` (conda's match specifications) against the local channel and link the packages into `prefix`."""
    from rattler import Gateway, solve
    from rattler import install as link
    from rattler.exceptions import SolverError

    async def solve_and_link() -> None:
        gateway = Gateway(cache_dir=root / "pkgs" / "repodata")
        records = await solve(sources=[(root / "channel").as_uri()], specs=specs, gateway=gateway)
        await link(records, target_prefix=prefix, cache_dir=root / "pkgs", show_progress=False)

    try:
        asyncio.run(solve_and_link())
    except SolverError as error:
        raise CondaError(f"LibMambaUnsatisfiableError: {error}") from error


def pip_install(prefix: Path, requirements: list[str], folder: Path) -> None:
    """Run the environment's own pip, as `conda env create` does: in the folder of the environment file."""
    with tempfile.NamedTemporaryFile("w", suffix=".requirements.txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        command = [f"{prefix}/bin/python", "-m", "pip", "install", "-U", "-r", file.name, "--exists-action=b"]
        environ = os.environ | {"CONDA_PREFIX": str(prefix), "PATH": f"{prefix}/bin{os.pathsep}{os.environ['PATH']}"}
        if subprocess.run(command, cwd=folder, env=environ).returncode != 0:
            raise CondaError("CondaEnvException: Pip failed")


def create_environment(root: Path, file: Path, prefix: Path) -> None:
    """`conda env create`: packages from the channel, then the `pip:` section."""
    description = yaml.safe_load(file.read_text())
    if unknown := set(description.get("channels", [])) - LOCAL_NAMES:
        raise CondaError(f"UnavailableInvalidChannel: this stand-in has no channel {', '.join(sorted(unknown))}")
    dependencies = description["dependencies"]
    install(root, prefix, [entry for entry in dependencies if isinstance(entry, str)])
    if requirements := [line for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]]:
        pip_install(prefix, requirements, file.parent)


def make_parser() -> argparse.ArgumentParser:
    """The calls of Snakemake, word for word; anything else ends with exit code 2."""
    parser = argparse.ArgumentParser("conda")
    parser.add_argument("root", type=Path)
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info").add_argument("--json", action="store_true", required=True)
    config = commands.add_parser("config")
    config.add_argument("--get", choices=["channel_priority"], required=True)
    config.add_argument("--json", action="store_true", required=True)
    clean = commands.add_parser("clean")
    for flag in ("-y", "--tarballs", "--packages"):
        clean.add_argument(flag, action="store_true")
    create = commands.add_parser("env").add_subparsers(dest="command", required=True).add_parser("create")
    for flag in ("--quiet", "--no-default-packages"):
        create.add_argument(flag, action="store_true")
    create.add_argument("--file", type=Path, required=True)
    create.add_argument("--prefix", type=Path, required=True)
    return parser


def main() -> int:
    """Answer one call."""
    from rattler.platform import Subdir

    args = make_parser().parse_args()
    if args.version:
        print(f"conda {VERSION}")
    elif args.command == "info":
        print(json.dumps({"conda_prefix": str(args.root), "platform": str(Subdir.current())}))
    elif args.command == "config":
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif args.command == "create":
        try:
            create_environment(args.root, args.file, args.prefix)
        except CondaError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
