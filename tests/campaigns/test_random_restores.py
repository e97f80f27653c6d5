"""Random restores: a random set, selection, method and target; afterwards what was asked for equals the set, and all else is untouched."""

import os
import random
import secrets

import pytest

from recovery.maintenance import replaced_copies
from tests.support.restore_driver import journal_steps, run_until, teardown
from tests.support.system import SampleSystem

TABLES = {"customers": "public", "requests": "public", "parts": "public", "notes": "extra"}
STATEMENTS = (
    "DROP VIEW newest; DROP TABLE requests; CREATE SCHEMA extra",
    "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE requests (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers, what text)",
    "CREATE TABLE parts (id serial PRIMARY KEY, name text, price numeric)",
    "CREATE TABLE extra.notes (id int PRIMARY KEY, note text)",
    "CREATE INDEX ON requests (what)",
    "CREATE VIEW busy AS SELECT c.name, count(*) FROM customers c JOIN requests r ON r.customer = c.id GROUP BY 1",
    "INSERT INTO customers SELECT n, 'name ' || n FROM generate_series(1, 50) n",
    "INSERT INTO requests (customer, what) SELECT 1 + n % 50, 'request ' || n FROM generate_series(1, 400) n",
    "INSERT INTO parts (name, price) SELECT 'part ' || n, n FROM generate_series(1, 80) n",
    "INSERT INTO extra.notes SELECT n, 'note ' || n FROM generate_series(1, 30) n",
)
COLLECTIONS = ("states", "documents", "sessions")


class World(SampleSystem):
    """A system that changes at random."""

    def fill(self):
        super().fill()
        for statement in STATEMENTS:
            self.sql(statement)
        with self.mongo.client() as client:
            client[self.name].documents.insert_many([{"_id": n, "text": f"text {n}" * 20} for n in range(100)])
        (self.home / "custom" / "rules.py").write_text("RULES = 1\n")

    def change(self, dice):
        """Something else in some of the tables, collections, files and settings."""
        for table, schema in TABLES.items():
            if dice.random() < 0.6:
                column = {"customers": "name", "requests": "what", "parts": "name", "notes": "note"}[table]
                self.sql(
                    f"UPDATE {schema}.{table} SET {column} = {column} || '{dice.randrange(100)}' WHERE id % {dice.randrange(2, 9)} = 0"
                )
        if dice.random() < 0.5:
            self.sql(f"INSERT INTO requests (customer, what) SELECT 1 + n % 50, 'later' FROM generate_series(1, {dice.randrange(1, 40)}) n")
        if dice.random() < 0.5:
            self.sql(f"DELETE FROM requests WHERE id % 7 = {dice.randrange(7)}")
        with self.mongo.client() as client:
            for name in COLLECTIONS:
                if dice.random() < 0.6:
                    client[self.name][name].update_many({"_id": {"$mod": [dice.randrange(2, 9), 0]}}, {"$set": {"changed": dice.random()}})
                if dice.random() < 0.3:
                    client[self.name][name].delete_many({"_id": {"$mod": [11, dice.randrange(11)]}})
        for number in range(6):
            if dice.random() < 0.4:
                (self.storage / f"year{number % 3}" / f"upload {number}.bin").write_bytes(dice.randbytes(20_000))
        if dice.random() < 0.5:
            (self.storage / f"year{dice.randrange(3)}" / f"came later {dice.randrange(100)}.txt").write_text("later\n")
        if dice.random() < 0.5:
            (self.home / ".env").write_text(f"DB_PASSWORD={dice.random()}\n")
        if dice.random() < 0.5:
            rules = dice.random()  # never those of a set: equal settings are left alone, with another time of change
            (self.home / "custom" / "rules.py").write_text(f"RULES = {rules}\n")


def whole_elsewhere(world, sets):
    """The first restore, so that the target has something to bring parts into."""
    sources = tuple(world.plan().source_ids)
    return {"set": sets[0], "sources": sources, "target": "elsewhere"}, dict.fromkeys(sources)


def draw(world, dice, sets):
    """What is asked of a random restore, and per source the fingerprint's keys that it brings; None for all of them."""
    sources = dice.sample(list(world.plan().source_ids), dice.randrange(1, 5))
    target = dice.choice(["live", "live", "elsewhere"])
    method = dice.choice(["swap", "swap", "in place"]) if target == "live" else "swap"
    only, keys = {}, dict.fromkeys(sources)
    for source_id in sources:
        if dice.random() < 0.6:
            only[source_id], keys[source_id] = PARTS[source_id](world, dice, method)
    asked = {"set": dice.choice(sets), "sources": tuple(sources), "only": only, "target": target, "method": method, "config": "all"}
    return asked | ({"overwrite": "elsewhere"} if target == "elsewhere" else {}), keys


def some_tables(world, dice, method):
    if method == "in place" or dice.random() < 0.3:
        return (world.name,), None
    if dice.random() < 0.3:
        return (f"{world.name}.extra",), {"notes"}
    chosen = dice.sample(sorted(TABLES), dice.randrange(1, 4))
    sequences = {"requests": {"requests_id_seq"}, "parts": {"parts_id_seq"}}
    keys = set(chosen).union(*(sequences.get(table, set()) for table in chosen))
    return tuple(f"{world.name}.{TABLES[table]}.{table}" for table in chosen), keys


def some_collections(world, dice, method):
    if dice.random() < 0.3:
        return (world.name,), None
    chosen = dice.sample(COLLECTIONS, dice.randrange(1, 3))
    views = {"running"} if "states" in chosen else set()  # it shows some of them
    return tuple(f"{world.name}.{name}" for name in chosen), views.union(*({name, f"{name} (indexes, options)"} for name in chosen))


def some_files(world, dice, method):
    chosen = dice.sample(["year0", "year1", "year2"], dice.randrange(1, 3))
    return tuple(chosen), set(chosen)


def some_settings(world, dice, method):
    chosen = dice.choice([".env", "custom"])
    return (str(world.home / chosen),), {chosen}


PARTS = {"postgres.main": some_tables, "mongo.documents": some_collections, "files.uploads": some_files, "config.settings": some_settings}


def expected(there, of_set, keys):
    """What a source holds after a restore: the set's where it was asked for, what was there everywhere else."""
    if keys is None:
        return of_set
    left = {name: value for name, value in there.items() if name not in keys}
    return left | {name: value for name, value in of_set.items() if name in keys}


def same(found, wanted):
    """What is not as it should be, thing by thing; empty if all is."""
    return {
        f"{source} {name}": (found[source].get(name), wanted[source].get(name))
        for source in wanted
        for name in found[source].keys() | wanted[source].keys()
        if found[source].get(name) != wanted[source].get(name)
    }


def play(world, dice, count):
    states = {}
    for number in range(3):
        states[world.back_up(f"set {number}")] = world.fingerprint()
        world.change(dice)
    for number in range(count):
        asked, keys = draw(world, dice, sorted(states)) if number else whole_elsewhere(world, sorted(states))
        story = f"restore {number}: {asked}"
        print(story)
        live, elsewhere = world.fingerprint(), world.elsewhere_fingerprint() if number else None
        run = world.restore(f"random {number}")
        run_until(world, run, request=world.ask(run, **asked))
        assert teardown(run) == "", (story, journal_steps(run))
        of_set = states[run.manifest().set_id]
        there = live if asked["target"] == "live" else elsewhere
        wanted = (there or {}) | {source: expected(there and there[source], of_set[source], keys[source]) for source in keys}
        if asked["target"] == "live":
            assert same(world.fingerprint(), wanted) == {}, story
            assert not number or same(world.elsewhere_fingerprint(), elsewhere) == {}, story
        else:
            assert same(world.elsewhere_fingerprint(), wanted) == {}, story
            assert same(world.fingerprint(), live) == {}, story
        replaced_copies.drop(run)
        assert world.leftovers() == [], story
        world.change(dice)


@pytest.fixture
def world(tmp_path, postgres_server, mongo_server):
    made = World(tmp_path / "world", "world", postgres=postgres_server, mongo=mongo_server, gates=("cutover",))
    yield made
    made.drop()


@pytest.fixture
def dice():
    """Chance, with a seed that is printed, and that ``RECOVERY_SEED`` repeats."""
    seed = int(os.environ.get("RECOVERY_SEED") or secrets.randbelow(1 << 32))
    print(f"RECOVERY_SEED={seed}")
    return random.Random(seed)


def test_ten_random_restores_change_only_requested_parts(world, dice):
    play(world, dice, 10)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_hundred_random_restores_change_only_requested_parts(world, dice):
    play(world, dice, 100)
