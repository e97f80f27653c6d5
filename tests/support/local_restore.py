"""A source's artifacts made and read back with the real stream, without plans, destinations or Airflow."""

import itertools
import json
import secrets
from pathlib import Path

import pyrage

from recovery.packs.artifact import members_below, read_listing
from recovery.packs.content_index import read_rows, write_rows
from recovery.packs.extract import extract
from recovery.packs.pack import Pack, open_pack, read_members, seal
from recovery.sources import registry
from recovery.sources.model import Dump
from sandbox.servers import postgres_bin


def back_up(source, folder: Path, pack_size: int = 4 << 20) -> Path:
    """Dump, seal, read back, and keep the contents, in a folder laid out for ``LocalRestore``."""
    folder.mkdir(parents=True)
    dump_folder = folder / "dump"
    dump_folder.mkdir()
    opened = []
    dump = source.dump(dump_folder, lambda: opened.append(1))
    assert len(opened) == 1, "opened() must be called once"
    identity = pyrage.x25519.Identity.generate()
    (folder / "identity").write_text(str(identity))
    (folder / "dump.json").write_text(dump.model_dump_json())
    packs = {}
    for artifact in dump.artifacts:
        out = folder / "packs"
        out.mkdir(exist_ok=True)
        listing = read_listing(dump_folder / artifact.listing) if artifact.listing else members_below(Path(artifact.root))
        inventory = dump_folder / f"{artifact.name}.inventory.jsonl"
        reach, recipients = source.hold(artifact, inventory), [str(identity.to_public())]
        made, disturbed = seal(artifact, listing, out, reach=reach, recipients=recipients, pack_size=pack_size, level=1)
        packs[artifact.name] = [pack.model_dump() for pack in made]
        if artifact.live:
            source.note_archived(inventory, disturbed)
        write_contents(source, folder, artifact.name, made)
    (folder / "packs.json").write_text(json.dumps(packs))
    return folder


def reader_of(source):
    """What reads the packs of a source like this one."""
    return registry.reader(source.kind, source.runner, [postgres_bin(major) for major in (18, 17, 16)])


def write_contents(source, folder: Path, artifact: str, packs: list[Pack]) -> None:
    def rows(pack: Pack):
        with (folder / "packs" / pack.file).open("rb") as sealed, open_pack(sealed, pack, identities(folder)) as stream:
            yield from reader_of(source).read_pack(artifact, read_members(stream))

    inventory = folder / "dump" / f"{artifact}.inventory.jsonl"
    read = itertools.chain.from_iterable(map(rows, packs))
    write_rows(folder / f"{artifact}.contents.jsonl", reader_of(source).contents(artifact, inventory, read))


def identities(folder: Path):
    return [pyrage.x25519.Identity.from_str((folder / "identity").read_text())]


def read_dump(folder: Path) -> Dump:
    return Dump.model_validate_json((folder / "dump.json").read_text())


class LocalRestore:
    """``recovery.sources.base.RestoreView`` over a folder that ``back_up`` made; the journal is kept in a file."""

    def __init__(
        self,
        set_folder: Path,
        work: Path,
        restore_id=None,
        options=None,
        *,
        only=(),
        in_place=False,
        beside=False,
        rolling_back=False,
        may_lack=False,
    ) -> None:
        self.set_folder = set_folder
        self.id = restore_id or secrets.token_hex(4)
        self.folder = work
        self.options = options or {}
        self.only = tuple(only)
        self.in_place = in_place
        self.beside = beside
        self.rolling_back = rolling_back
        self.may_lack = may_lack
        work.mkdir(parents=True, exist_ok=True)
        self._journal = work.parent / f"{work.name}.journal.jsonl"
        self.on_journal = lambda step, facts: None
        """Tests put a kill here: it is called before the step is written."""
        self.after_journal = lambda step, facts: None
        """And here: once it is written."""

    others: frozenset = frozenset()

    def artifacts(self):
        return list(json.loads((self.set_folder / "packs.json").read_text()))

    def rows(self, artifact, *kinds):
        return read_rows(self.set_folder / f"{artifact}.contents.jsonl", *kinds)

    def unpack(self, artifact, folder, only=None):
        for facts in json.loads((self.set_folder / "packs.json").read_text())[artifact]:
            pack = Pack(**facts)
            with (
                (self.set_folder / "packs" / pack.file).open("rb") as source,
                open_pack(source, pack, identities(self.set_folder)) as reader,
            ):
                extract(reader, folder, only)

    def refuse_if_changed(self):
        """There is no restore around it that made a safety set."""

    def record(self, step, **facts):
        self.on_journal(step, facts)
        assert self.may_lack or step != "not made" or not facts["things"], facts
        with self._journal.open("a") as out:
            out.write(json.dumps([step, facts]) + "\n")
        self.after_journal(step, facts)

    def created(self):
        return [folder for facts in self.recorded_facts("staged") for folder in facts["created"]]

    def recorded_facts(self, step):
        if not self._journal.exists():
            return []
        return [facts for said, facts in map(json.loads, self._journal.read_text().splitlines()) if said == step]
