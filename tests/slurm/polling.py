"""Snakemake as it is, but for one thing: it asks for the states of its jobs every second.

It would wait ten seconds more each time that no job has ended, which is most of the time that a test takes.

    python tests/slurm/polling.py --workflow-profile workflow/profiles/slurm
"""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def one_second(executor: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = one_second
    main()
