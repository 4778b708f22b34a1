"""Verifies the envelope of a bundle with a public key, and the statement in it. Needs securesystemslib, cryptography and
in-toto-attestation. Prints the predicate type."""

import json
import sys

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

with open(sys.argv[1], "rb") as bundle, open(sys.argv[2], "rb") as pem:
    wire = json.load(bundle)["dsseEnvelope"]
    key = SSlibKey.from_crypto(load_pem_public_key(pem.read()))
for signature in wire["signatures"]:
    signature["keyid"] = key.keyid
envelope = Envelope.from_dict(wire)
envelope.verify([key], 1)
statement = statement_pb2.Statement()
json_format.Parse(envelope.payload, statement)
# What cosign signs for an image itself has an empty predicate, which this library takes for none.
if statement.predicate.fields:
    Statement.copy_from_pb(statement).validate()
print(statement.predicate_type)
