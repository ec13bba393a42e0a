"""Data sets of texts, tokens that are kept, and next-token prediction."""

from poolax.data._entry import Entry
from poolax.data.language._banking77 import BANKING77
from poolax.data.language._documentation import DOCUMENTATION
from poolax.data.language._documentation import documentation as documentation
from poolax.data.language._hellaswag import HELLASWAG
from poolax.data.language._next_token import next_token as next_token
from poolax.data.language._sentences import sentences as sentences
from poolax.data.language._stsb import STSB
from poolax.data.language._tinystories import TINYSTORIES
from poolax.data.language._tokenize import tokenize as tokenize
from poolax.data.language._topics import TOPICS
from poolax.data.language._topics import topics as topics
from poolax.data.language._tweets import EMOTION, SENTIMENT

ENTRIES: tuple[Entry, ...] = (
    BANKING77,
    SENTIMENT,
    EMOTION,
    STSB,
    HELLASWAG,
    TINYSTORIES,
    TOPICS,
    DOCUMENTATION,
)
