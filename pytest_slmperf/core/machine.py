"""The machine as a value, and which of its fields must match before two measurements are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a difference in a field means."""

    MUST_MATCH = "must match"
    NOTE = "worth a note"


ROLES: Mapping[str, Role] = {
    "device": Role.MUST_MATCH,
    "driver": Role.MUST_MATCH,
    "cores": Role.MUST_MATCH,
    "virtualisation": Role.MUST_MATCH,
    "memory_gib": Role.NOTE,
    "kernel": Role.NOTE,
    "governor": Role.NOTE,
    "microcode": Role.NOTE,
    "container": Role.NOTE,
    "hostname": Role.NOTE,
}


@dataclass(frozen=True)
class Machine:
    """What was measured on. `device` and `driver` name the folders of a baseline file."""

    device: str
    """A GPU's or CPU's model, or `simulated`."""
    driver: str
    """A GPU's driver version; on a CPU the kernel's series, `linux-6.1`."""
    fields: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """Everything else that is known, flat, by the names in ROLES (a name that isn't there is worth a note)."""

    @property
    def simulated(self) -> bool:
        return self.device == "simulated"

    def differences(self, other: "Machine", role: Role) -> dict[str, tuple[object, object]]:
        """Fields of this role that differ, each as (mine, the other's)."""
        mine, theirs = self.flat(), other.flat()
        names = [name for name in {**mine, **theirs} if ROLES.get(name, Role.NOTE) is role]
        return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}

    def flat(self) -> dict[str, str | int | float | bool | None]:
        return {"device": self.device, "driver": self.driver, **self.fields}
