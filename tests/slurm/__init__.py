"""A real SLURM on this machine alone: munged, slurmctld and a few slurmd, without systemd or control groups.

It needs root and Debian's packages slurm-wlm and munge. Nodes have 16 CPUs and two GPUs each, whatever the machine has;
a job that takes more memory than it asked for is killed within some seconds. Its configuration must be at Debian's
place, for Snakemake's job steps drop the variable that would name another.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue")
ETC = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf", "cgroup.conf")

SLURM_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.log
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
Waittime=0
SlurmdParameters=config_overrides
GresTypes=gpu
DefMemPerCPU=500
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=1000 State=UP PriorityTier=1
PartitionName=gpu Nodes=ALL MaxTime=1000 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=1000 State=UP PriorityTier=2
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=64000 Gres=gpu:toy:2"
GRES_CONF = "AutoDetect=off\nNodeName=n[1-{n}] Name=gpu Type=toy File={root}/dev/gpu[0-1] Flags=nvidia_gpu_env\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"


def why_not() -> str | None:
    """Why there can be no cluster here; None where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: Debian's packages slurm-wlm and munge are not installed"
    if os.geteuid():
        return "a cluster of one's own needs root"
    if any((ETC / name).exists() and not (ETC / name).is_symlink() for name in FILES):
        return f"{ETC} has a SLURM of this machine's own"
    return None


class Cluster:
    """A cluster in a folder of its own; `with Cluster(folder) as cluster:`."""

    def __init__(self, root: Path, n_nodes: int = 2) -> None:
        self.root, self.nodes = root, [f"n{number}" for number in range(1, n_nodes + 1)]

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._start_munge()
            self.start_controller()
            for node in self.nodes:
                run("slurmd", "-N", node, "-f", str(ETC / "slurm.conf"))
            wait_until(lambda: len(self._idle()) == len(self.nodes), 60, f"nodes are not idle; see {self.root}/log")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configure(self) -> None:
        for name in ("etc", "log", "run", "state", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):  # a device that does nothing
            os.mknod(self.root / "dev" / f"gpu{number}", 0o20666, os.makedev(1, 3))
        nodes = "\n".join(NODE.format(name=node, port=17000 + int(node[1:])) for node in self.nodes)
        texts = (
            SLURM_CONF.format(root=self.root, nodes=nodes),
            GRES_CONF.format(root=self.root, n=len(self.nodes)),
            CGROUP_CONF,
        )
        ETC.mkdir(exist_ok=True)
        for name, text in zip(FILES, texts, strict=True):
            (self.root / "etc" / name).write_text(text)
            (ETC / name).unlink(missing_ok=True)
            (ETC / name).symlink_to(self.root / "etc" / name)

    def _start_munge(self) -> None:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return  # one is there
        for folder in ("/run/munge", "/var/log/munge"):
            run("install", "-d", "-o", "munge", "-g", "munge", "-m", "0755", folder)
        run("runuser", "-u", "munge", "--", "munged", "--force")
        wait_until(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, 20, "no munged")

    def start_controller(self) -> None:
        """Start it; at the end it answers."""
        run("slurmctld", "-f", str(ETC / "slurm.conf"))
        wait_until(lambda: run("scontrol", "show", "config", check=False), 30, "the controller does not answer")

    def stop_controller(self) -> None:
        self._kill(self.root / "run" / "slurmctld.pid")

    def _idle(self) -> list[str]:
        return run("sinfo", "-h", "-N", "-p", "cpu", "-t", "idle", "-o", "%N", check=False).split()

    def jobs(self, state: str = "all") -> list[str]:
        """Numbers of the jobs in a state."""
        return run("squeue", "-h", "-t", state, "-o", "%A", check=False).split()

    def details(self, job: str) -> str:
        """All that SLURM says about a job."""
        return run("scontrol", "show", "job", job)

    def cancel_all(self) -> None:
        """As it is between two tests."""
        run("scancel", "-u", "root", check=False)
        wait_until(lambda: not self.jobs("running,pending,completing"), 60, "jobs do not end")

    def stop(self) -> None:
        """End all daemons and their jobs, and leave the machine as it was."""
        run("scancel", "-u", "root", check=False)
        for pid in [*(self.root / "run").glob("slurmd-*.pid"), self.root / "run" / "slurmctld.pid"]:
            self._kill(pid)
        for name in FILES:  # with these and no controller, every call of Snakemake would wait for ten seconds
            if (ETC / name).is_symlink():
                (ETC / name).unlink()

    def _kill(self, pid: Path) -> None:
        if not pid.exists():
            return
        try:
            os.kill(int(pid.read_text()), signal.SIGTERM)
        except (ProcessLookupError, ValueError):
            return
        wait_until(lambda: not pid.exists(), 40, f"{pid.stem} does not end")


def run(*command: str, check: bool = True) -> str:
    """What a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def wait_until(condition: object, seconds: float, otherwise: str) -> None:
    """Look again and again until it is so.

    Raises:
        TimeoutError: it is not, after so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.2)
