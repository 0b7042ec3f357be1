"""Text that somebody can have meant as a name, a path or the value of an option."""

import os

MAX_CHARACTERS = 2**15
"""More than any path, URL or name has. Linux takes paths of up to 4,096 bytes."""


def flaw_of(text: str, *, is_path: bool) -> str:
    """Return what is wrong with a text, as the end of a sentence; empty if nothing is.

    Args:
        text: The text.
        is_path: True for a path or URL. A path may have bytes that are no UTF-8, which Python shows
            as halves of characters, `\\udc80` to `\\udcff`.
    """
    if "\0" in text:
        return "has a null character"
    try:
        if is_path and "://" not in text:
            os.fsencode(text)
        else:
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        character = text[error.start]
        is_half = "\ud800" <= character <= "\udfff"
        return "has half of a character" if is_half else "has a character that no path here has"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters, more than any name or path"
    return ""
