"""Services of a sample system, which a test can make wait or fail."""

from pathlib import Path

_SERVICE = """\
#!/bin/sh
# Notes each call. While the file block-<verb>-<name> is there it waits, as a child of the task; fail-<verb>-<name> makes it fail.
cd '{folder}'
if [ -e "block-$1-$2" ]; then
    echo $PPID > "blocked-$1-$2.new" && mv "blocked-$1-$2.new" "blocked-$1-$2"
    while [ -e "block-$1-$2" ]; do sleep 0.1; done
    rm -f "blocked-$1-$2"
fi
[ -e "fail-$1-$2" ] && {{ echo "$2 does not $1, on purpose"; exit 7; }}
echo "$1 $2" >> services
echo "$2: $1 is done"
"""


class ControllableServices:
    """The services ``web`` and ``workers`` of a system: one program, which takes a verb and the name of a service."""

    folder: Path

    def install_services(self):
        """Write the program ``service``, which the plan calls."""
        service = self.folder / "service"
        service.write_text(_SERVICE.format(folder=self.folder))
        service.chmod(0o755)

    @property
    def service_calls(self):
        """All calls that the services have done, as ``<verb> <name>``, oldest first."""
        return (self.folder / "services").read_text().splitlines() if (self.folder / "services").exists() else []

    @property
    def services(self):
        """Whether each service runs, by the last call that started or stopped it."""
        state = {"web": "start", "workers": "start"}
        state |= {call.split()[1]: call.split()[0] for call in self.service_calls if call.split()[0] != "check"}
        return {name: verb == "start" for name, verb in state.items()}

    def block(self, verb, name):
        """Make such calls wait until :meth:`unblock`."""
        (self.folder / f"block-{verb}-{name}").touch()

    def blocked(self, verb, name):
        """The process of the task whose call waits; None while there is none."""
        path = self.folder / f"blocked-{verb}-{name}"
        return int(path.read_text()) if path.exists() else None

    def unblock(self, verb, name):
        """Let the calls that wait go on."""
        (self.folder / f"block-{verb}-{name}").unlink()

    def fail(self, verb, name):
        """Make such calls fail until :meth:`mend`."""
        (self.folder / f"fail-{verb}-{name}").touch()

    def mend(self, verb, name):
        """Let such calls succeed again."""
        (self.folder / f"fail-{verb}-{name}").unlink()
