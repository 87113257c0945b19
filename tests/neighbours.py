"""Other plugins of pytest that are installed beside ours: a run that a test starts leaves them out."""

NEIGHBOURS = ("randomly", "xdist", "timeout", "rerunfailures", "benchmark", "cacheprovider", "hypothesispytest")
"""They shuffle, cache and report, and their imports take a fifth of a second of each run."""


def without(keep: tuple[str, ...] = ()) -> list[str]:
    """The options that leave them out, but for those that a test is about."""
    return [word for name in NEIGHBOURS if name not in keep for word in ("-p", f"no:{name}")]
