"""Drives the authority by the cloudflare SDK: create, list, get, edit, delete. Arguments: URL, zone, certificate, key."""

import os
import sys

import cloudflare
from cloudflare import Cloudflare

url, zone, certificate, key = sys.argv[1:]
certificate, key = open(certificate).read(), open(key).read()
client = Cloudflare(api_token=os.environ["TOKEN"], base_url=url + "/client/v4", max_retries=0)
certificates = client.custom_certificates

made = certificates.create(
    zone_id=zone, certificate=certificate, private_key=key, policy="(country: US) or (region: EU)", type="sni_custom"
)
assert made.policy_restrictions == "(country: US) or (region: EU)", made
assert made.hosts == ["shop.example", "*.shop.example"], made
listed = list(certificates.list(zone_id=zone))
assert [one.id for one in listed] == [made.id], listed
got = certificates.get(made.id, zone_id=zone)
assert got.id == made.id and got.status == "active", got
edited = certificates.edit(made.id, zone_id=zone, certificate=certificate, private_key=key, policy="not country: FR")
assert edited.id == made.id and edited.policy_restrictions == "not country: FR", edited

for fields, code in [
    ({"policy": "(country: US) and (region: EU)"}, 80033),
    ({"policy": "region: EU and (not country: FR)"}, 80034),
    ({"policy": "region: EU", "geo_restrictions": {"label": "eu"}}, 80005),
]:
    try:
        certificates.create(zone_id=zone, certificate=certificate, private_key=key, **fields)
    except cloudflare.APIStatusError as refused:
        codes = [error["code"] for error in refused.response.json()["errors"]]
        assert codes == [code], (fields, codes)
    else:
        raise AssertionError(fields)
gone = certificates.delete(made.id, zone_id=zone)
assert gone.id == made.id, gone
assert list(certificates.list(zone_id=zone)) == []
print("the SDK works")
