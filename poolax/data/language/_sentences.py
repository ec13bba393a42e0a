"""English sentences that come with Python."""

import re

from poolax._checks import check_count

_MARKUP = re.compile(r"[*`_|<>=\\{}\[\]#]")


def sentences(num_sentences: int | None = None) -> list[str]:
    """English sentences from Python's own documentation, which needs no download.

    Sentences of 6 to 40 words without markup, spread evenly over the topics.

    Args:
        num_sentences: How many; ``None`` for all of them.

    Returns:
        The sentences.

    Raises:
        ValueError: if there are not that many.

    Example:
        >>> [sentence[-1] for sentence in sentences(2)]
        ['.', '.']

    Reference:
        Topics of "The Python Language Reference", as ``help()`` prints them.
    """
    from pydoc_data.topics import topics

    found = []
    for _, text in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            if paragraph.startswith(" "):  # code, lists and tables
                continue
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                whole = sentence[:1].isupper() and sentence.endswith(".")
                if whole and 6 <= len(sentence.split()) <= 40 and not _MARKUP.search(sentence):
                    found.append(sentence)
    found = list(dict.fromkeys(found))
    if num_sentences is None:
        return found
    check_count("num_sentences", num_sentences)
    if num_sentences > len(found):
        raise ValueError(f"num_sentences: expected at most {len(found)}, got {num_sentences}")
    return [found[index * len(found) // num_sentences] for index in range(num_sentences)]
