"""The machine as a value, and which of its fields must match before two measurements are compared."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
"""What a field of a machine or of a baseline's key may hold."""

SIMULATED = "simulated"
"""The device of an engine that does not do the work it is timed for, and the first word of a GPU's name that a stand-in
for its driver told.
"""
NOT_SAID = "not said"
"""What nobody knows of a measurement that was imported: two that don't say it may differ in it."""
REMOTE = "remote"
"""The first word of the device of a server on another machine, of which nothing is known but its address."""
GPU_UUID = "gpu_uuid"
"""The field that every machine with a GPU has, and no other."""


class Role(StrEnum):
    """What a difference in a field means."""

    MUST_MATCH = "must match"
    PART_OF_DEVICE = "must match, unless another device is asked for"
    NOTE = "worth a note"
    IGNORED = "ignored"


ROLES: Mapping[str, Role] = {
    "device": Role.MUST_MATCH,
    "driver": Role.MUST_MATCH,
    "power_limit_w": Role.MUST_MATCH,
    "locked_clock_mhz": Role.MUST_MATCH,
    "ecc": Role.MUST_MATCH,
    "mig": Role.MUST_MATCH,
    "mps": Role.MUST_MATCH,
    "env.CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": Role.MUST_MATCH,  # a part of a GPU is another GPU
    GPU_UUID: Role.NOTE,  # joules look at the boards that they were counted on; any board of the model is as fast
    "cores": Role.PART_OF_DEVICE,
    "smt": Role.PART_OF_DEVICE,
    "virtualisation": Role.PART_OF_DEVICE,
    "hostname": Role.IGNORED,  # a container draws a new one for every run
    "compile_caches": Role.IGNORED,  # the first recording fills them
}
"""A field that isn't here is worth a note."""


def role(name: str, one: "Machine", other: "Machine") -> Role:
    """What a difference in a field of these machines means. On a GPU the processor beside it is worth a note, and so is
    that of whoever asks another machine.
    """
    found = ROLES.get(name, Role.NOTE)
    beside = one.kind == other.kind and one.kind in ("cuda", REMOTE)
    return Role.NOTE if found is Role.PART_OF_DEVICE and beside else found


@dataclass(frozen=True)
class Machine:
    """What was measured on. `device` and `driver` name the folders of a baseline file."""

    device: str
    """A GPU's model or a MIG instance's, a CPU's model with its usable cores, `remote HOST:PORT`, or `simulated`."""
    driver: str
    """A GPU's driver version; on a CPU the kernel's series, `linux-6.1`."""
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    """Everything else that is known, flat; ROLES says what a difference means."""

    @property
    def title(self) -> str:
        """As advice names it: measurements of one title are of one machine."""
        return f"{self.device} (driver {self.driver})"

    @property
    def simulated(self) -> bool:
        """Whether nothing was really computed, or on no real GPU: comparable with no real machine."""
        return self.device.partition(" ")[0] == SIMULATED

    @property
    def kind(self) -> Literal["cpu", "cuda", "remote", "simulated"]:
        """What engines that run on it call their device."""
        if GPU_UUID in self.fields:
            return "cuda"
        if self.device.partition(" ")[0] == REMOTE:
            return "remote"
        return "simulated" if self.simulated else "cpu"

    def runs(self, device: object) -> bool:
        """Whether an engine that says it runs on `cpu`, `cuda`, `cuda:1` or `simulated` runs on this machine."""
        return str(device).partition(":")[0] == self.kind

    def differences(self, other: "Machine", *roles: Role) -> dict[str, tuple[Scalar, Scalar]]:
        """Fields of these roles that differ, each as (mine, the other's); None where one lacks the field."""
        mine, theirs = self.flat(), other.flat()
        names = [name for name in {**mine, **theirs} if role(name, self, other) in roles]
        pairs = {name: (mine.get(name), theirs.get(name)) for name in names}
        return {name: pair for name, pair in pairs.items() if not same(*pair)}

    def flat(self) -> dict[str, Scalar]:
        """All fields in one mapping, as they are stored and shown."""
        return {**self.fields, "device": self.device, "driver": self.driver}


def same(one: object, other: object) -> bool:
    """Whether two fields are equal. 2 and 2.0 are; True and 1 are not."""
    return isinstance(one, bool) is isinstance(other, bool) and one == other


def shown(value: Scalar) -> str:
    """A field as a sentence has it: `true` for True, and `absent` for one that isn't there."""
    return "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def slug(text: str) -> str:
    """A text as the name of a file or folder: small letters, digits, dots and underscores, joined by hyphens.

    Marks like (R) and (TM) are left out; what has no letter or digit is `unnamed`.
    """
    plain = unicodedata.normalize("NFKD", re.sub(r"\((?:r|tm|c)\)", " ", text, flags=re.IGNORECASE).casefold())
    words = re.findall(r"[a-z0-9][a-z0-9._]*", plain.encode("ascii", "ignore").decode())
    return "-".join(word.rstrip(".") for word in words) or "unnamed"
