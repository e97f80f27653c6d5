"""Plan files that went wrong: the plan that ships and one with every part, changed at random, the same for the same seed."""

import json
import random
import re

import yaml

from recovery.plan.loader import DEFAULT_FOLDER

RECIPIENT = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"
ENVIRONMENT = {"OPENMANUS_RECIPIENT": RECIPIENT, "HUGE": "x" * 100_000, "BAD": "a\udcffb", "EMPTY": "", "TURN": "$HUGE"}

_EVERYTHING = f"""\
plan: shop
schedule: "30 2 * * *"
timezone: Europe/Berlin
owner: ops
objectives: {{rpo: 26h, rto: 2h}}
sources:
  postgres: {{main: {{connection: pg, databases: [shop], jobs: 4, schema_sql: true}}}}
  mongo: {{documents: {{connection: mongo, collections: [shop.orders], jobs: 2}}}}
  files: {{uploads: {{path: /srv/uploads, exclude: ["*.tmp", "cache/**"]}}}}
  config: {{settings: {{paths: [/srv/app/.env, /srv/app/conf], exclude: ["**/*.bak"]}}}}
encryption: {{recipients: [{RECIPIENT}], identity: id}}
signing: signer
destinations:
  near: {{folder: /mnt/backups, mount: /mnt, keep_within: 30d}}
  far: {{s3: {{connection: s3, bucket: backups, prefix: prod/sets}}, keep_last: 14}}
approvals: {{approvers: [{{id: alice, name: Alice}}, {{id: bob, name: Bob}}], timeout: 12h, signing: approver}}
services: {{stop: [[systemctl, stop, app]], start: [[systemctl, start, app]], timeout: 5m}}
hooks:
  before_backup: [{{argv: [/usr/bin/true, "${{EMPTY:-a}}"], timeout: 5m}}]
  after_backup: [{{sql: {{source: postgres.main, database: shop, statement: SELECT 1}}}}]
  before_restore: [{{mongo: {{source: mongo.documents, database: shop, command: {{ping: 1}}}}}}]
checks:
  - {{name: web, http: {{url: "https://app.example.org/health", status: 200, fields: {{"db.state": ok}}}}, retries: 3, pause: 5s}}
  - {{sql: {{source: postgres.main, database: shop, query: SELECT count(*) FROM orders, at_least: 1.5}}}}
  - {{mongo: {{source: mongo.documents, database: shop, collection: orders, filter: {{at: {{$$gt: {{$$date: "2026-11-23T01:00:00Z"}}}}}}, equals: 3}}}}
targets:
  staging:
    gates: [plan]
    sources: {{postgres: {{main: {{connection: spare, databases: {{shop: shop_copy}}}}}}, files: {{uploads: {{path: /srv/staging}}}}}}
drill: {{schedule: "0 4 * * 0", on_new_set: true, target: staging, sources: [files.uploads], destinations: [near], folder: /var/tmp, queue: drills}}
alerts: {{mail: {{connection: smtp, to: [ops@example.org], sender: r@example.org}}, heartbeat: dead_man}}
staging: {{folder: /staging, keep: 3d, cap: 20GB}}
tools: {{postgres: [/usr/lib/postgresql/18/bin]}}
pack: 1GiB
compression: 3
retries: 2
retry_delay: 1m
timeout: 6h
keep_replaced: 7d
verification: content
"""  # noqa: E501
PLANS = ((DEFAULT_FOLDER / "openmanus.yaml").read_text(), _EVERYTHING)


def alias_bomb(levels: int = 8, keys: int = 20_000) -> str:
    """A file of some hundred kilobytes that is more objects than there is memory."""
    lines = [f"a0: &a0 {{{', '.join(f'k{number}: x' for number in range(keys))}}}"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


NASTY = {
    "a timezone that is a folder": "Europe",
    "another one": "US",
    "a continent": "America",
    "a folder of timezones": "Etc",
    "five thousand letters": "x" * 5000,
    "no bool": "!!bool maybe",
    "no int": '!!int ""',
    "no timestamp": "!!timestamp x",
    "no map": "!!map [a]",
    "no set": "!!set [a]",
    "no pairs": "!!pairs [a]",
    "binary": "!!binary x",
    "a Python object": "!!python/object/apply:os.system [x]",
    "its own alias": "&a [*a]",
    "an alias": "*a",
    "an anchor": "&a b",
    "a few levels of aliases": alias_bomb(8, 3).replace("\n", "\n  "),
    "a date": "2026-11-23",
    "no date": "2026-02-30",
    "a moment out of range": "0001-01-01T00:00:00+14:00",
    "infinity": ".inf",
    "less": "-.inf",
    "no number": ".nan",
    "a number beyond floats": "1.0e+999",
    "a long decimal": "9" * 5000,
    "a long octal": "0" + "7" * 5000,
    "a long hexadecimal": "0x" + "f" * 5000,
    "a long binary": "0b" + "1" * 5000,
    "no binary": "0b_",
    "base sixty": "1:" * 5000 + "1",
    "a large number": "9" * 39,
    "a negative number": "-1",
    "a fraction": "0.5",
    "true": "true",
    "null": "null",
    "equals": "=",
    "a text of nothing": '""',
    "a list": "[a, [b]]",
    "an object": "{a: {b: c}}",
    "a list of many": f"[{'a, ' * 3000}a]",
    "brackets": "[" * 500,
    "braces": "{a: " * 500,
    "nested": "[" * 39 + "]" * 39,
    "NUL": '"a\\0b"',
    "a surrogate": '"\\ud800"',
    "an escape sequence": '"\\e[31m\\u202e"',
    "lines": '"a\\nb\\n"',
    "a merge key": "{<<: {a: 1}, a: 2}",
    "a number as key": "{1: a}",
    "true as key": "{on: a}",
    "a list as key": "{[a]: b}",
    "an object as key": "{{a: b}: c}",
    "a key twice": "{a: 1, a: 2}",
    "variables": '"${A:-${A:-${A:-x}}}"',
    "braces of variables": '"' + "${A:-" * 4000 + '"',
    "a variable that grows": '"' + "$HUGE" * 500 + '"',
    "a variable with a variable": '"$TURN"',
    "a variable that is no text": '"$BAD"',
    "no variable": '"$ ${} $$$"',
    "an unset variable": '"${NOT_SET:?' + "why " * 500 + '}"',
    "digits of a duration": '"' + "9" * 30_000 + '"',
    "a long duration": '"99999999999999999999999w"',
    "parts of a duration": '"' + "1s" * 5000 + '"',
    "a long size": '"' + "9" * 400 + 'TiB"',
    "any folders": '["' + "**/" * 80 + 'x"]',
    "any letters": '["' + "*a" * 120 + '", "[", "[!", "[z-a]"]',
    "a path": "/a/../b",
    "a deep path": "/a" * 2000,
    "a schedule by chance": '"R R * * *"',
    "a schedule that never comes": '"0 0 31 2 *"',
    "a long schedule": f'"{",".join(["0"] * 3000)} 1 * * *"',
    "a schedule of others": '"@reboot"',
    "no address": '"https://[::1"',
    "a port": '"https://a:99999999999999999999/"',
    "an id of nothing": '{$$oid: "zz"}',
    "a decimal of MongoDB": '{$$numberDecimal: "1e999999999"}',
    "an int of MongoDB": '{$$numberLong: "' + "9" * 5000 + '"}',
    "a regex of MongoDB": '{$$regularExpression: {pattern: "(", options: "?"}}',
    "a code of MongoDB": '{$$code: {$$scope: 1}}',
    "a directive": "a\n%YAML 9.9\n---\nb",
    "two documents": "a\n---\nb",
    "a tab": "\tb",
    "a byte order mark": "\ufeffa",
    "control characters": "a\x01\x7f\x85b",
    "beyond the first plane": "\U0001f600",
}  # fmt: skip
"""Values that YAML, Python or a check of ours stumbled over, or might."""
BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\x1b[2J",
    b"\t",
    b"'",
    b'"',
    b"|",
    b">",
    b"?",
    b"&",
    b"*",
    b"!",
    b"%",
    b"@",
    b"`",
)

PARTS = (None, True, -1, 0, 1 << 70, 0.5, "", "a", [], {}, ["a"] * 300, {"a": 1}, {f"n{number}": {} for number in range(150)})

_VALUE = re.compile(r"(?<=: )[^\s{}\[\],]+|(?<=[\[,] )[^\s{}\[\],]+|(?<=\[)[^\s{}\[\],]+")
_KEY = re.compile(r"\b[\w.]{1,40}(?=: )")


def mutated(seed: int) -> bytes:
    """A plan file with some changes."""
    dice = random.Random(seed)
    text = dice.choice(PLANS)
    for _ in range(dice.choice((0, 0, 1, 2))):
        text = _other_part(text, dice)
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 6))):
        text = dice.choice((_other_value, _other_value, _other_value, _other_key, _other_lines, _cut, _repeated))(text, dice)
    data = text.encode("utf-8", "surrogatepass")
    if dice.random() < 0.15:
        at = dice.randrange(len(data) + 1)
        data = data[:at] + dice.choice(BYTES) + data[at + dice.randrange(3) :]
    return data


def _somewhere(pattern: re.Pattern[str], text: str, dice: random.Random, new: str) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text
    match = dice.choice(found)
    return text[: match.start()] + new + text[match.end() :]


def _other_value(text: str, dice: random.Random) -> str:
    return _somewhere(_VALUE, text, dice, dice.choice(list(NASTY.values())))


def _other_key(text: str, dice: random.Random) -> str:
    return _somewhere(_KEY, text, dice, dice.choice([*NASTY.values(), *_KEY.findall(text)]))


def _other_lines(text: str, dice: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[one] = dice.choice(("", lines[other], lines[one] * 2, f"  {lines[one]}"))
    return "".join(lines)


def _cut(text: str, dice: random.Random) -> str:
    start = dice.randrange(len(text) + 1)
    return text[:start] + text[start + dice.randrange(40) :]


def _repeated(text: str, dice: random.Random) -> str:
    start = dice.randrange(len(text) + 1)
    return text[:start] + text[start : start + dice.randrange(1, 30)] * dice.choice((2, 50, 5000)) + text[start:]


def _other_part(text: str, dice: random.Random) -> str:
    """Another value for a whole part: what the reader of YAML can't see."""
    tree = yaml.safe_load(text)
    parent, key = dice.choice(list(_places(tree)))
    parent[key] = dice.choice(PARTS)
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


def _places(tree):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(value)


_ODD_TEXTS = (
    "x",
    "x" * 250,
    "\U0001f600" * 62,
    "é" * 250,
    "{{ 1/0 }}",
    "{% include 'x' %}",
    "{plan} {0} {",
    "%s %(x)s",
    "a.md",
    "a.sql",
    "../a.j2",
    "<script>",
    "*a* [b](c) `d` | e",
    "a\nb",
    " a ",
    "\x85\u2028\u202e",
    "__type",
    "null",
    "1",
    "'\"\\",
    "a,b",
    "ops@example.org",
)
_LONG_NAME = "a" + "_-" * 19 + "z"
_DURATIONS = ("1s", "59s", "1m", "36500d", "99999999s", "1d1h1m1s")
_SCHEDULES = (
    None,
    "* * * * *",
    "0 0 29 2 *",
    "0 0 29 2 1",
    "59 23 31 12 *",
    "*/7 1-5 * * mon#2",
    "0 0 L * *",
    "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30 */5 * */3 1-6",
    "0 2 * mar sun",
    "0 0 ? * L5",
)
_ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Etc/GMT+12", "Antarctica/Troll", "posix/Asia/Kathmandu", "localtime")


def acceptable(seed: int) -> str:
    """A plan file with some of what the form allows, at the edges of what DAGs are made of; most of them are plans."""
    dice = random.Random(seed)
    plan = yaml.safe_load(_EVERYTHING)
    for change in dice.sample(_CHANGES, dice.randrange(1, 7)):
        change(plan, dice)
    return yaml.safe_dump(json.loads(json.dumps(plan)), allow_unicode=True, sort_keys=False)  # a copy: without aliases


def _set(*path, of):
    def change(plan, dice):
        *above, last = path
        for key in above:
            plan = plan.setdefault(key, {})
        plan[last] = dice.choice(of)

    return change


def _without(*keys):
    def change(plan, dice):
        plan.pop(dice.choice(keys), None)

    return change


def _without_targets(plan, dice):
    plan["targets"] = {}
    plan.pop("drill", None)


def _many_sources(plan, dice):
    for number in range(dice.choice((1, 20, 95))):
        plan["sources"]["files"][f"f{number}"] = {"path": f"/data/{number}/{dice.choice(_ODD_TEXTS[:7]).strip()}"}


def _long_names(plan, dice):
    kind = dice.choice(("files", "config"))
    plan["sources"][kind][_LONG_NAME] = {"path": "/long"} if kind == "files" else {"paths": ["/long/a", "/long/{{ b }}", "/long/c.md"]}
    plan["destinations"][_LONG_NAME] = {"folder": "/mnt/long", "keep_last": 1}
    plan["targets"][_LONG_NAME] = {"sources": {"files": {"uploads": {"path": "/srv/long"}}}}


def _people(plan, dice):
    plan["approvals"]["approvers"] = [{"id": dice.choice(_ODD_TEXTS), "name": dice.choice(_ODD_TEXTS)} for _ in range(dice.choice((1, 50)))]


def _mails(plan, dice):
    plan.setdefault("alerts", {})["mail"] = {
        "connection": dice.choice(_ODD_TEXTS),
        "to": [dice.choice(_ODD_TEXTS)],
        "sender": dice.choice(_ODD_TEXTS),
    }


def _commands(plan, dice):
    argv = ["/bin/true", *dice.sample(_ODD_TEXTS, 3)]
    plan["services"] = {"stop": [argv], "start": [argv]}
    plan["hooks"] = {moment: [{"argv": argv}] for moment in ("before_backup", "after_failed_backup", "before_restore", "after_restore")}
    plan["checks"] = [{"name": dice.choice(_ODD_TEXTS), "argv": argv}]


_CHANGES = (
    _set("owner", of=_ODD_TEXTS),
    _set("schedule", of=_SCHEDULES),
    _set("timezone", of=_ZONES),
    _set("drill", of=[{"schedule": schedule, "on_new_set": new} for schedule in _SCHEDULES for new in (True, False)]),
    _set("drill", "queue", of=_ODD_TEXTS),
    _set("approvals", "timeout", of=_DURATIONS),
    _set("retries", of=(0, 10)),
    _set("retry_delay", of=_DURATIONS),
    _set("timeout", of=_DURATIONS),
    _set("keep_replaced", of=_DURATIONS),
    _set("objectives", of=[{"rpo": one, "rto": other} for one in _DURATIONS for other in _DURATIONS]),
    _set("alerts", "heartbeat", of=_ODD_TEXTS),
    _without_targets,
    _without("hooks", "services", "checks", "alerts", "drill", "schedule"),
    _many_sources,
    _long_names,
    _people,
    _mails,
    _commands,
)
"""Each makes other what DAGs are made of."""
