"""A plan together with all that it only names: keys, destinations, sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from recovery.common.connections import Clients, Endpoint
from recovery.common.errors import KeyMaterialError, PlanError
from recovery.crypto.recipients import parse_identity
from recovery.crypto.signing import SigningKey, VerifyKey
from recovery.destinations import make_destination
from recovery.destinations.base import Destination
from recovery.packs.pack import Identity
from recovery.plan.model import Plan
from recovery.plan.source_id import kind_of
from recovery.plan.source_settings import TargetSettings
from recovery.runners.base import Runner
from recovery.runners.local import LOCAL
from recovery.runners.ways import Ways
from recovery.sources import registry
from recovery.sources.base import Access, Source
from recovery.sources.set_reader import SetReader

R = TypeVar("R", bound=Source)


@dataclass(frozen=True)
class PlanContext:
    """What every step of a backup, restore or drill works with. Each task makes its own; nothing is looked up before it is needed."""

    plan: Plan
    clients: Clients = field(repr=False)
    runner: Runner = LOCAL
    ways: Ways = field(default_factory=Ways, repr=False)
    """The ways to servers in containers; who makes the context closes them."""

    def endpoint(self, connection_id: str) -> Endpoint:
        """A Connection.

        Raises:
            ConnectionUnusable: if there is none of that id.
        """
        return self.clients.connect(connection_id)

    def signing_key(self) -> SigningKey:
        """The key that signs sets and their records.

        Raises:
            KeyMaterialError: if it is not one.
        """
        return SigningKey.from_endpoint(self.endpoint(self.plan.signing))

    def verify_key(self) -> VerifyKey:
        """What signatures are checked with; it comes from the plan, never from where a set lies."""
        return self.signing_key().verify_key

    def decryption_key(self) -> Identity | None:
        """What opens packs; None where the plan names no identity.

        Raises:
            KeyMaterialError: if it is not one.
        """
        name = self.plan.encryption.identity
        return parse_identity(self.endpoint(name)) if name else None

    def required_decryption_key(self) -> Identity:
        """What opens packs, for those who can't go on without.

        Raises:
            KeyMaterialError: if the plan names none, or it is not one.
        """
        key = self.decryption_key()
        if key is None:
            raise KeyMaterialError(
                "The plan names no identity, so nothing can be decrypted.", "Name its Connection under encryption.identity."
            )
        return key

    def destination(self, name: str) -> Destination:
        """A destination of the plan, by its name."""
        return make_destination(name, self.plan.destinations[name], self.clients.s3)

    def destinations(self, *, without: Sequence[str] = ()) -> list[Destination]:
        """All destinations of the plan, but for some."""
        return [self.destination(name) for name in self.plan.destinations if name not in without]

    def source(self, source_id: str, role: type[R], there: TargetSettings | None = None) -> R:
        """A source of the plan, for what it is to do; looks its Connection up, but does not connect.

        Args:
            source_id: ``<kind>.<name>``.
            role: a role of :mod:`recovery.sources.base`.
            there: where the source lies, if not in the live system.

        Raises:
            ConnectionUnusable: if the Connection is missing.
            PlanError: if sources of this kind don't have the role.
        """
        made = registry.make(self.plan, source_id, self.access(source_id), there)
        if not isinstance(made, role):
            raise PlanError(f"{source_id} can't {role.ability}: no source of kind {kind_of(source_id)} can.", "Leave it out.")
        return made

    def access(self, source_id: str) -> Access:
        """How a source is reached."""
        kind, tools = kind_of(source_id), self.plan.tools
        in_containers = self.plan.staging.folder if tools.in_containers(kind) else None
        return Access(self.clients.connect, self.runner, tools.folders(kind), self.ways, in_containers)

    def reader(self, source_id: str, there: TargetSettings | None = None) -> SetReader:
        """What reads a source's packs, by the client tools of the source or of where it lies instead.

        Raises:
            ContainerError: if the tools are in a container, and it does not run.
        """
        runner, tools = self.access(source_id).client_tools(there or self.plan.source(source_id))
        return registry.reader(kind_of(source_id), runner, tools)
