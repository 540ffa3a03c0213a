"""docs/lab-report.md: what a full run saw."""
import datetime
import hashlib
import platform
import subprocess
from dataclasses import dataclass


@dataclass
class Result:
    """One promise."""

    name: str
    seen: str
    took_s: float
    kept: bool


def first_line_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def write(path, lab):
    commit = first_line_of("git", "describe", "--always", "--dirty", "--exclude=*")
    rows = [f"| {result.name} | {'yes' if result.kept else '**no**'} | {result.seen} | {result.took_s:.0f} s |" for result in lab.results]
    facts = [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("faregate", f"{lab.version}, {lab.package.name}, SHA-256 {hashlib.sha256(lab.package.read_bytes()).hexdigest()[:16]}…"),
        ("lab", f"commit {commit}"),
        ("gate computer", f"{(lab.image / 'version').read_text().strip()}, arm64, cortex-a53 × 2, 512 MiB, emulated"),
        ("emulator", f"{first_line_of('qemu-system-aarch64', '--version').split('(')[0].strip()}, TCG, on {platform.machine()}"),
    ]
    head = "# What the lab saw\n\nWritten by `lab/run` after a full run, from what it saw. Times are those of an emulated machine. A power cut\n"
    head += "is a `kill -9` of the emulator: what the gate computer had not synced is lost, what its disk had taken is not.\n\n"
    table = "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in facts)
    promises = "\n| promise | kept | seen | took |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    path.write_text(head + table + promises)
