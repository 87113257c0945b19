"""What a text from outside must be before it is stored, shown or sent to a process."""


def flaw(text: str) -> str | None:
    """What makes it no text of UTF-8, as `has '\\udcff', …`; None for a text.

    Python reads a byte that is no UTF-8 as half a surrogate pair, and fails where it is written.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has {text[error.start]!r}, which is no character"
    return None
