"""Where a bucket is reached, and by which region requests to it are signed.

At an endpoint of one's own the bucket stands in the path: such a server seldom has a name for each. At Amazon it stands
in the host's name, but where it has a dot, which no certificate fits. A test compares all of it with what botocore's
whole client makes, which reads a description of S3 and of its endpoints for that, in 0.2 s.
"""

import re
from functools import cache
from typing import Any, NamedTuple

from persist.store import StoreRefused
from town.store_url import Bucket
from town.terminal import shown

REGION = "us-east-1"  # what servers that have no regions are asked by
# Ends of names that no plain bucket may have: of S3 Express, which takes no Content-MD5, and of Outposts.
_OTHERS = ("--x-s3", "--xa-s3", "--op-s3")
_GLOBAL = "aws-global"  # a name for us-east-1


class Address(NamedTuple):
    """`url`: what keys follow, `/` between them; `bare`: the bucket itself; `region`: what is signed."""

    url: str
    bare: str
    region: str


def address(place: Bucket) -> Address:
    """Where `place` is. Raises StoreRefused for a name of Amazon's that is no plain bucket."""
    region = place.region or REGION
    fips = region.startswith("fips-") or region.endswith("-fips")
    region = region.removeprefix("fips-").removesuffix("-fips")
    if place.endpoint is not None:
        url = f"{place.endpoint}/{place.bucket}"
        return Address(url, url, REGION if region == _GLOBAL else region)
    if place.bucket.endswith(_OTHERS):
        raise StoreRefused(
            f"{shown(place.bucket)} is no plain bucket of Amazon S3", hint="take a general purpose bucket"
        )
    host, region = _host(region, fips=fips)
    if "." in place.bucket:
        return Address(f"https://{host}/{place.bucket}", f"https://{host}/{place.bucket}", region)
    return Address(f"https://{place.bucket}.{host}", f"https://{place.bucket}.{host}/", region)


def _host(region: str, *, fips: bool) -> tuple[str, str]:
    if region in (REGION, _GLOBAL) and not fips:
        return "s3.amazonaws.com", REGION
    return f"s3{'-fips' if fips else ''}.{region}.{_suffix(region)}", region


def _suffix(region: str) -> str:
    """Where Amazon's regions lie; one that nobody knows may be a new one of the first partition."""
    found: list[dict[str, Any]] = _partitions()
    for known in found:
        if region in known["regions"] or re.fullmatch(known["regionRegex"], region):
            return str(known["outputs"]["dnsSuffix"])
    return str(found[0]["outputs"]["dnsSuffix"])


@cache
def _partitions() -> list[dict[str, Any]]:
    """As botocore knows them; what lies below HOME/.aws/models is not read."""
    from botocore.loaders import Loader

    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    return list(loader.load_data("partitions")["partitions"])
