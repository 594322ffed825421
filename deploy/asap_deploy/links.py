"""Opening a link of the kind that was asked for.

link = open_link(LinkSpec("twin", "127.0.0.1:47400"))
"""

from __future__ import annotations

from asap_deploy.errors import InputError
from asap_deploy.link import LINK_KINDS, Link, LinkSpec


def open_link(spec: LinkSpec) -> Link:
    """A link of the kind that was asked for; the others' libraries are not imported.

    Raises:
        InputError: If there is none, or no robot answers.
    """
    if spec.kind == "twin":
        from asap_deploy.link_twin import TwinLink

        return TwinLink(spec)
    if spec.kind == "unitree":
        from asap_deploy.link_unitree import UnitreeLink

        return UnitreeLink(spec)
    raise InputError(f"there is no link '{spec.kind}' (valid: {', '.join(LINK_KINDS)})")
