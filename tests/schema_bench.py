"""Schemas, and values that a serializer wrote with them."""

from __future__ import annotations

from registry_stand_in import Registry, encoded, framed

ADDRESS = {
    "type": "record",
    "name": "Address",
    "namespace": "shop",
    "fields": [{"name": "city", "type": "string"}],
}
ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [{"name": "n", "type": "long"}, {"name": "to", "type": "shop.Address"}],
}
PLAIN = {"type": "record", "name": "Plain", "fields": [{"name": "message", "type": "string"}]}
URL = "http://registry:8081/apis/ccompat/v7"


def order(registry: Registry) -> int:
    """Register a schema whose reference has a subject that no path holds as it is."""
    registry.add(ADDRESS, "addresses/of shop")
    reference = {"name": "shop.Address", "subject": "addresses/of shop", "version": 1}
    return registry.add(ORDER, references=[reference])


def ordered(number: int, n: int, city: str = "Köln") -> bytes:
    schema = {**ORDER, "fields": [ORDER["fields"][0], {"name": "to", "type": ADDRESS}]}
    return framed(number, encoded(schema, {"n": n, "to": {"city": city}}))


UNREACHABLE = "SchemaRegistryUnreachable"
