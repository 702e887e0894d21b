"""Reads messages as other people's software does, and says what it saw.

One JSON object a line on standard input: {"message": base64, "records": {name: TXT value}}.
One JSON object a line as the answer. `email` is Python's own parser in its strict policy;
`dkim` is dkimpy, which takes the TXT records from the request instead of the DNS.
"""

import base64
import email
import email.header
import email.policy
import email.utils
import json
import sys

import dkim

POLICY = email.policy.SMTP.clone(raise_on_defect=True)


def headers_of(message):
    """All fields, decoded; raises when a field has a defect."""
    fields = []
    for name, value in message.items():
        if value.defects:
            raise ValueError(f"{name}: {value.defects!r}")
        fields.append([name, str(value)])
    return fields


def mailbox(raw, message, field):
    """The display name and address of the one mailbox in `field`.

    The name comes from the older functions: up to Python 3.12 the newer ones put a space between
    neighbouring encoded words of a phrase, which RFC 2047 (section 6.2) forbids.
    """
    (address,) = message[field].addresses
    value = email.message_from_bytes(raw, policy=email.policy.compat32)[field]
    name, addr_spec = email.utils.parseaddr(str(value).replace("\r\n", ""))
    if addr_spec != address.addr_spec:
        raise ValueError(f"{field}: {addr_spec} or {address.addr_spec}?")
    return [str(email.header.make_header(email.header.decode_header(name))), addr_spec]


def signatures_of(raw, records):
    """One verdict for each DKIM-Signature, from the first."""

    def txt(name, timeout=5):
        name = name.decode() if isinstance(name, bytes) else name
        value = records.get(name.rstrip("."))
        return value.encode() if value is not None else None

    count = email.message_from_bytes(raw).get_all("DKIM-Signature", [])
    verifier = dkim.DKIM(raw)
    return [verifier.verify(idx=index, dnsfunc=txt) for index in range(len(count))]


def answer(request):
    raw = base64.b64decode(request["message"])
    message = email.message_from_bytes(raw, policy=POLICY)
    if message.get_content_type() != "multipart/alternative":
        raise ValueError(f"not multipart/alternative: {message.get_content_type()}")
    parts = list(message.iter_parts())
    for part in parts:
        headers_of(part)
    return {
        "headers": headers_of(message),
        "from": mailbox(raw, message, "From"),
        "to": mailbox(raw, message, "To"),
        "types": [part.get_content_type() for part in parts],
        "charsets": [part.get_content_charset() for part in parts],
        "bodies": [part.get_payload(decode=True).decode("utf-8") for part in parts],
        "preamble": message.preamble,
        "epilogue": message.epilogue,
        "dkim": signatures_of(raw, request.get("records", {})),
    }


for line in sys.stdin:
    try:
        result = answer(json.loads(line))
    except Exception as error:  # the test shows what went wrong
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
