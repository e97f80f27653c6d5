"""Source ids: ``<kind>.<name>``, as tasks, manifests and journals say them."""


def kind_of(source_id: str) -> str:
    """The kind of a source."""
    return source_id.partition(".")[0]


def name_of(source_id: str) -> str:
    """The name of a source in its plan."""
    return source_id.partition(".")[2]
