"""The file that `compress` writes: a header, a stack of 32-bit words, digests of both."""

import json
import zlib
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any

import numpy as np

from ppl_vae.errors import DamagedFileError, OtherSettingsError
from ppl_vae.runtime.display import Shown

__all__ = ["CompressedRows", "Header"]

MAGIC = b"ppl_vae bits-back\n"
FORMAT = 1
LARGEST_HEADER = 2**26  # bytes, unpacked
DIGEST_SIZE = 32
DAMAGED = "the compressed rows are damaged or incomplete: copy the file again"


@dataclass(frozen=True)
class Header:
    """What decoding needs beside model, guide and words.

    Args:
        num_rows: Number of rows N.
        dtype: Type of x.
        batches: Rows of each batch, in the order of encoding.
        batch_size: Rows that model and guide are given at once; short batches are padded.
        steps: Widths of the cells of z, one for each latent dimension.
        centres: Values of z at the middle cell.
        half: Cells on either side of the middle one.
        largest: Largest value of each column of counts without an upper end.
        initial_words: Words on the stack before the first row.
        seed: Seed of these words.
        weights: Digest of the weights of model and guide.
        probe: Digest of their outputs for rows made up for this purpose.
        context: Digest of the covariates.
        rows: Digest of x.
        versions: Versions of the libraries by name.

    Example:
        >>> header = Header(0, "float32", [], 1, [], [], 1, [], 0, 0, "", "", "", "", {})
        >>> Header.read(header.packed()) == header
        True
    """

    num_rows: int
    dtype: str
    batches: list[int]
    batch_size: int
    steps: list[float]
    centres: list[float]
    half: int
    largest: list[int]
    initial_words: int
    seed: int
    weights: str
    probe: str
    context: str
    rows: str
    versions: dict[str, str]

    def packed(self) -> bytes:
        """The header as compressed JSON."""
        return zlib.compress(json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, packed: bytes) -> "Header":
        """The header of a file whose digest was checked.

        Raises:
            DamagedFileError: It is none.
        """
        try:
            unpack = zlib.decompressobj()
            given: Any = json.loads(unpack.decompress(packed, LARGEST_HEADER))
            return cls(**{field.name: given[field.name] for field in fields(cls)})
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(DAMAGED) from error


@dataclass(frozen=True)
class CompressedRows(Shown):
    """Compressed rows, as `compress` writes them, with their sizes.

    Args:
        header: What decoding needs beside model and guide.
        words: The stack, 32 bits a word.

    Example:
        >>> header = Header(2, "float32", [], 1, [], [], 1, [], 1, 0, "", "", "", "", {})
        >>> compressed = CompressedRows(header, np.array([1, 2, 3], dtype=np.uint32))
        >>> compressed.initial_bits, compressed.net_bits
        (32, 64)
        >>> CompressedRows.from_bytes(compressed.to_bytes()).words.tolist()
        [1, 2, 3]
    """

    header: Header
    words: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of rows N."""
        return self.header.num_rows

    @property
    def initial_bits(self) -> int:
        """Random bits that were there before the first row, from which its z was drawn."""
        return 32 * self.header.initial_words

    @property
    def net_bits(self) -> int:
        """Bits of all rows without the initial ones; about -ELBO / log 2, summed over rows."""
        return 32 * len(self.words) - self.initial_bits

    @property
    def net_bits_per_row(self) -> float:
        """Bits of a row without the initial ones, on average."""
        return self.net_bits / self.num_rows

    def to_bytes(self) -> bytes:
        """The file: a magic line, format and size of the header, header, words, SHA-256 of all."""
        packed = self.header.packed()
        sizes = np.array([FORMAT, len(packed)], dtype="<u4").tobytes()
        body = MAGIC + sizes + packed + self.words.astype("<u4").tobytes()
        return body + sha256(body).digest()

    @classmethod
    def from_bytes(cls, compressed: bytes) -> "CompressedRows":
        """What `to_bytes` wrote; nothing is decoded before the digest of the whole agrees.

        Raises:
            TypeError: It is not bytes.
            DamagedFileError: It is another kind of file, or damaged.
            OtherSettingsError: It has another format.
        """
        if not isinstance(compressed, bytes | bytearray | memoryview):
            raise TypeError(
                f"compressed rows are bytes, as `compress` returns them, and not "
                f"{type(compressed).__name__}: read a file by Path(...).read_bytes()"
            )
        compressed = bytes(compressed)
        if not compressed.startswith(MAGIC):
            raise DamagedFileError(
                "these bytes are not compressed rows: give what `compress` returned"
            )
        body, found = compressed[:-DIGEST_SIZE], compressed[-DIGEST_SIZE:]
        start = len(MAGIC) + 8
        if len(body) < start or sha256(body).digest() != found:
            raise DamagedFileError(DAMAGED)
        number, size = np.frombuffer(body[len(MAGIC) : start], dtype="<u4").tolist()
        if number != FORMAT:
            raise OtherSettingsError(
                f"compressed rows have format {number}, and this version reads {FORMAT}: use the "
                "version of ppl_vae that wrote them"
            )
        header = Header.read(body[start : start + size])
        words = np.frombuffer(body[start + size :], dtype="<u4")
        return cls(header, words.astype(np.uint32))

    def __repr__(self) -> str:
        return (
            f"CompressedRows({self.num_rows} rows, {self.net_bits_per_row:.1f} bits a row, "
            f"{self.initial_bits} initial bits)"
        )
