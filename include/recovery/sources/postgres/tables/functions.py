"""Functions that take or give the rows of a table, which a swap makes anew: they mean the type of the replaced table otherwise.

No code of theirs runs: their bodies are not looked at when they are made, and the constants in their defaults are of types
that run none when they are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.sources.postgres.accounts.server_globals import grant, grantee_name
from recovery.sources.postgres.accounts.versions import Right
from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.definitions.sql_snippets import ROUTINE, acl

_FUNCTIONS = SQL(
    """SELECT p.oid, p.oid::regprocedure::text, CASE p.prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END || {routine},
      p.pronamespace::regnamespace::text, pg_get_functiondef(p.oid), pg_get_userbyid(p.proowner),
      {acl}, obj_description(p.oid, 'pg_proc') FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.oid = ANY (%s) AND p.prokind <> 'a' AND l.lanpltrusted AND to_jsonb(p) ->> 'prosqlbody' IS NULL
      AND NOT EXISTS (SELECT FROM pg_depend u WHERE u.refclassid = 'pg_proc'::regclass AND u.refobjid = p.oid
        OR u.classid = 'pg_proc'::regclass AND u.objid = p.oid AND u.deptype IN ('e', 'x'))
      AND NOT EXISTS (SELECT FROM regexp_matches(p.proargdefaults::text, ':consttype (\\d+)', 'g') m JOIN pg_type t ON t.oid = m[1]::oid
        WHERE t.oid >= 16384 AND t.typtype <> 'e') ORDER BY 2"""
).format(acl=acl("p.proacl", "'f'", "p.proowner"), routine=ROUTINE)
_ACL = SQL("SELECT {acl} FROM pg_proc p WHERE p.oid = %s::regprocedure").format(acl=acl("p.proacl", "'f'", "p.proowner"))
_NEVER_SET = Identifier("exit_on_error")
"""A setting that everybody may change, and that no function has."""


@dataclass(frozen=True)
class Function:
    """A function or procedure of a live database."""

    oid: int
    signature: str
    """Name and types of parameters, as the catalogs quote them."""
    named: str
    """Likewise, as ALTER and GRANT name it, and nothing else."""
    schema: str
    definition: str
    owner: str
    rights: Sequence[Right]
    comment: str | None

    def hold(self, connection: Connection) -> None:
        """Keep everybody from changing it until the transaction ends: its row in the catalog is written anew, as it is."""
        connection.execute(SQL("ALTER {} RESET {}").format(SQL(self.named), _NEVER_SET))

    def drop(self, connection: Connection) -> None:
        """Drop it, if nothing uses it."""
        connection.execute(SQL("DROP {}").format(SQL(self.named)))

    def make(self, connection: Connection) -> None:
        """Make it again, of whatever has the names of its types by now."""
        connection.execute("SELECT set_config('check_function_bodies', 'off', true)")
        connection.execute(SQL(self.definition), binary=True)  # so the server takes it for one statement, or not at all
        routine = SQL("{}").format(SQL(self.named))
        connection.execute(SQL("ALTER {} OWNER TO {}").format(routine, Identifier(self.owner)))
        for statement in self._rights(connection, routine):
            connection.execute(statement)
        if self.comment is not None:
            connection.execute(SQL("COMMENT ON {} IS {}").format(routine, Literal(self.comment)))

    def _rights(self, connection: Connection, routine: Composed) -> Iterator[Composed]:
        ((found,),) = connection.execute(_ACL, [self.signature]).fetchall()
        if found != self.rights:
            for grantee in sorted({grantee for grantee, *_ in found or ()}, key=str):
                yield SQL("REVOKE ALL ON {} FROM {}").format(routine, grantee_name(grantee))
            for grantee, privilege, may_grant in self.rights or ():
                yield grant(privilege, routine, grantee, may_grant)


def functions(connection: Connection, oids: Collection[int]) -> tuple[Function, ...]:
    """Of functions with these numbers those that can be dropped and made anew: nothing uses them, and to read them runs no code."""
    return tuple(Function(*row) for row in connection.execute(_FUNCTIONS, [list(oids)]).fetchall())
