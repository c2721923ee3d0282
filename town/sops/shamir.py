"""Shamir's secret sharing as sops 3 does it (shamir/shamir.go, from HashiCorp Vault).

Each byte of the secret is the value at 0 of a random polynomial over GF(2^8), the field of AES; a share is the values
of all the polynomials at one x, and then x itself.
"""

import secrets
from collections.abc import Sequence
from functools import reduce

_FIELD = 0x11B  # x^8 + x^4 + x^3 + x + 1 (FIPS 197, section 4.2)
MOST = 255  # shares: x is a byte, and not 0


def split(secret: bytes, parts: int, threshold: int) -> list[bytes]:
    """`parts` shares of a secret, each one byte longer; any `threshold` of them (2 to parts, at most 255) give it."""
    assert 2 <= threshold <= parts <= MOST
    assert secret
    polynomials = [[byte, *secrets.token_bytes(threshold - 1)] for byte in secret]
    return [bytes([*(_at(polynomial, x) for polynomial in polynomials), x]) for x in range(1, parts + 1)]


def combine(shares: Sequence[bytes]) -> bytes:
    """The secret of enough shares; of too few, or of shares of different secrets, it is noise.

    Raises ValueError when they cannot be shares of one secret: one alone, of different sizes, or two of the same x.
    """
    xs = [share[-1] if share else 0 for share in shares]
    if len(shares) < 2 or len(set(xs)) != len(xs) or 0 in xs or len(set(map(len, shares))) != 1:
        raise ValueError("these are not shares of one secret")
    weights = [_weight(xs, x) for x in xs]
    columns = zip(*(share[:-1] for share in shares), strict=True)
    return bytes(reduce(int.__xor__, map(_product, column, weights)) for column in columns)


def _weight(xs: Sequence[int], x: int) -> int:
    """How much the value at x counts in the value at 0 (Lagrange; subtraction is xor)."""
    others = [other for other in xs if other != x]
    return reduce(_product, (_product(other, _inverse(x ^ other)) for other in others), 1)


def _at(polynomial: Sequence[int], x: int) -> int:
    return reduce(lambda value, coefficient: _product(value, x) ^ coefficient, reversed(polynomial), 0)


def _product(a: int, b: int) -> int:
    """Multiplication in the field, by the same steps whatever the numbers are.

    >>> hex(_product(0x57, 0x83))
    '0xc1'
    """
    product = 0
    for bit in range(7, -1, -1):
        product = (product << 1) ^ (_FIELD & -(product >> 7))
        product ^= a & -(b >> bit & 1)
    return product


def _inverse(a: int) -> int:
    power = 1
    for _ in range(7):  # a^2 a^4 … a^128 is a^254, and a^255 is 1 for every a but 0
        a = _product(a, a)
        power = _product(power, a)
    return power
