"""Texts of any size as files of token ids: what language models are pretrained on."""

from poolax._token_files import TokenShards as TokenShards
from poolax._token_files import read as read
from poolax.data.tokens._documents import Documents as Documents
from poolax.data.tokens._once import write_once as write_once
from poolax.data.tokens._sources import documents as documents
from poolax.data.tokens._tokenizers import bytes_of_tokens as bytes_of_tokens
from poolax.data.tokens._tokenizers import load_tokenizer as load_tokenizer
from poolax.data.tokens._tokenizers import train_tokenizer as train_tokenizer
from poolax.data.tokens._write import write as write
