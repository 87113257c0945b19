"""Lists of cores, as a kernel writes them."""


def cores_of(listed: str) -> frozenset[int]:
    """The cores of a kernel's list: `0-2,8`."""
    cores: set[int] = set()
    for part in listed.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)
