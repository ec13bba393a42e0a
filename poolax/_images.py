"""Images from the bytes of their files, so that damage shows."""

import io
import struct
import zlib

from PIL import Image

from poolax._files import reading

# What Pillow's decoders make of damaged files.
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, NotImplementedError, MemoryError, struct.error, zlib.error),
    Image.DecompressionBombError,
)


def decode_image(encoded: bytes, name: str, remedy: str) -> Image.Image:
    """An image from the bytes of its file.

    Args:
        encoded: The bytes.
        name: What an error calls the file.
        remedy: What to do where it is damaged.

    Raises:
        DamagedFileError: for anything that cannot be decoded, or a PNG of another checksum.
    """
    with reading(name, "an image that can be decoded", remedy, *_UNDECODABLE):
        image = Image.open(io.BytesIO(encoded))
        if image.format == "PNG":  # the only one with checksums, which decoding skips
            image.verify()
            image = Image.open(io.BytesIO(encoded))
        image.load()
        return image
