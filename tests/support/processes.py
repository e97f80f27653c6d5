"""Processes of this machine, looked at without the code under test."""

import subprocess
from pathlib import Path


def is_running(pid):
    """Whether a process runs; one that only waits for its parent to look does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def command_lines_with(path):
    """Command lines of everything that has the path in its arguments."""
    listed = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(path) in line]
