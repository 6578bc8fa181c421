"""Makes the schemas of this folder anew from checkouts of the projects they come from.

    python tests/deploy/schemas/vendor.py KUBERAY_CHECKOUT COMPOSE_SPEC_CHECKOUT

A custom resource's schema is made as strict as ``kubectl apply --validate=strict`` is: a key that
it does not know is refused. Descriptions, which are nine tenths of it, are left out.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def strict(schema: Any) -> Any:
    """The same schema for a validator of JSON Schema, refusing unknown keys; without prose."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items() if not _is_prose(key, part)}
    if isinstance(made.get("properties"), dict) and "type" in made:
        made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if made.get("x-kubernetes-preserve-unknown-fields") is True:
        made["additionalProperties"] = True
    return made


def custom_resource(path: Path) -> dict[str, Any]:
    """The schema of version v1 of a CustomResourceDefinition."""
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
    made = strict(schema)
    made["properties"]["metadata"] = {"type": "object"}  # its own keys are the API server's
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


def write(name: str, schema: Any) -> None:
    """Minified and compressed, the same bytes for the same schema."""
    text = json.dumps(schema, separators=(",", ":"), sort_keys=True)
    (HERE / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _is_prose(key: str, part: Any) -> bool:
    return key == "description" and isinstance(part, str)


if __name__ == "__main__":
    kuberay, compose = map(Path, sys.argv[1:])
    bases = kuberay / "ray-operator/config/crd/bases"
    for kind in ("raycluster", "rayjob"):
        write(f"{kind}.v1.json.gz", custom_resource(bases / f"ray.io_{kind}s.yaml"))
    write("compose-spec.json.gz", json.loads((compose / "schema/compose-spec.json").read_text()))
