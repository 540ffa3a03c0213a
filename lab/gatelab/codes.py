"""Ride codes after JT/T 1179-2018, signed with SM2 and SM3 (GB/T 32918.2), from the documents and by another hand than the program's.

One authority, one issuer, any number of passengers; for tests only: nothing here keeps a secret or its time.
"""
import functools
import hashlib
import secrets
import time

FIELD = 2**256 - 2**224 - 2**96 + 2**64 - 1
CURVE_A = FIELD - 3
CURVE_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
ORDER = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
GENERATOR = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
SIGNER_ID = b"1234567812345678"


def number(value, size=32):
    return value.to_bytes(size, "big")


def sm3(data):
    return hashlib.new("sm3", data).digest()


def sum_of(left, right):
    """Of two points; None is the neutral one."""
    if left is None or right is None:
        return left or right
    if left == right:
        slope = (3 * left[0] ** 2 + CURVE_A) * pow(2 * left[1], -1, FIELD)
    elif left[0] == right[0]:
        return None
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, FIELD)
    x = (slope**2 - left[0] - right[0]) % FIELD
    return x, (slope * (left[0] - x) - left[1]) % FIELD


@functools.cache
def powers_of_generator():
    powers = [GENERATOR]
    for _ in range(255):
        powers.append(sum_of(powers[-1], powers[-1]))
    return powers


def times_generator(factor):
    return functools.reduce(sum_of, (power for bit, power in enumerate(powers_of_generator()) if factor >> bit & 1), None)


class Key:
    def __init__(self):
        self.secret = secrets.randbelow(ORDER - 2) + 1
        self.x, self.y = times_generator(self.secret)
        curve = b"".join(number(value) for value in (CURVE_A, CURVE_B, *GENERATOR, self.x, self.y))
        self.identity = sm3(number(len(SIGNER_ID) * 8, 2) + SIGNER_ID + curve)

    def compressed(self):
        return bytes([2 + self.y % 2]) + number(self.x)

    def uncompressed(self):
        return b"\x04" + number(self.x) + number(self.y)

    def sign(self, message):
        digest = int.from_bytes(sm3(self.identity + message), "big")
        while True:
            nonce = secrets.randbelow(ORDER - 1) + 1
            r = (digest + times_generator(nonce)[0]) % ORDER
            s = pow(1 + self.secret, -1, ORDER) * (nonce - r * self.secret) % ORDER
            if r and s and r + nonce != ORDER:
                return number(r) + number(s)


class Authority:
    """The root, and one issuer that it has certified until the end of 2099."""

    ISSUER = bytes.fromhex("03664530")

    def __init__(self):
        self.root, self.issuer = Key(), Key()
        body = b"\x12" + self.ISSUER + bytes.fromhex("1299") + bytes(3) + b"\x04\x04\x00\x21" + self.issuer.compressed()
        self.certificate = b"\x24\x01\x01\x00\x00\x01" + body + self.root.sign(body)

    def roots_toml(self):
        return f'[[root]]\nindex = 1\npublic_key = "{self.root.uncompressed().hex()}"\nexpires = "2099-12"\n'


class Passenger:
    """Shows codes. The issuer has signed the passenger's key once; each code is a new time and a new signature."""

    def __init__(self, authority, account):
        self.key = Key()
        now = int(time.time())
        fields = b"%-16d" % account + bytes.fromhex(f"{account:020d}") + Authority.ISSUER + bytes.fromhex("10000001")
        fields += b"\x01" + number(20000, 3) + self.key.compressed() + number(now + 7 * 86400, 4) + number(600, 2) + b"\x00"
        signed = authority.certificate + fields
        after_length = signed + b"\x15" + authority.issuer.sign(signed)
        self.begun = b"\x80" + number(len(after_length) + 4 + 65, 2) + after_length

    def code(self):
        whole = self.begun + number(int(time.time()), 4)
        return whole + b"\x15" + self.key.sign(whole)


def digest(code):
    """As the gate's log and the sandbox's book name a code."""
    return hashlib.sha256(code).hexdigest()[:8]
