"""Extended attributes, as backups keep them."""

from __future__ import annotations

import errno
import os

OF_THE_HOST = frozenset({"security.selinux", "security.ima", "security.evm"})
"""What the host gives its files anew; no set has them."""


def read_xattrs(place: bytes | int) -> dict[str, bytes]:
    """The attributes of an entry itself, by name, but for those of the host. Access control lists are among them.

    Args:
        place: its path, which is followed through no link, or its descriptor, which may be one that only leads to it (``O_PATH``).

    Raises:
        OSError: if they can't be read.
    """
    follow = isinstance(place, int)
    path = b"/proc/self/fd/%d" % place if isinstance(place, int) else place
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for name in sorted(set(names) - OF_THE_HOST):
        try:
            found[name] = os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since
                raise
    return found
