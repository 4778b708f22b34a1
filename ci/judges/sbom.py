"""Holds a CycloneDX document against the strict schema of its version. Needs cyclonedx-python-lib[validation]."""

import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

with open(sys.argv[1], encoding="utf-8") as document:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.read())
sys.exit(f"{sys.argv[1]}: {error}" if error else 0)
