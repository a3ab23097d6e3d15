"""PDFs of which all is random but their meaning: spellings, comments, references, object streams."""

from __future__ import annotations

import random
import re
import zlib

FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
_TOKEN = re.compile(rb"\([^()]*\)|<<|>>|\[|\]|/[A-Za-z0-9]*|\d+ 0 R|[^\s/<>\[\]()]+")


def respelled(source: bytes, chance: random.Random) -> bytes:
    """Write an object, or a page's content, in another spelling of the same meaning."""
    out = b""
    for token in _TOKEN.findall(source):
        out += chance.choice([b" ", b" ", b"\n", b"%)x(\n", b"%<<>>/Type/Font\r", b"\t\f "])
        if token[:1] == b"/":
            token = b"/" + b"".join(b"#%02x" % one if chance.random() < 0.1 else bytes([one]) for one in token[1:])
        elif token[:1] == b"(" and chance.random() < 0.3:
            token = b"<" + token[1:-1].hex().encode() + b">"
        elif token[-2:] == b" R":
            token = token.replace(b" ", chance.choice([b" ", b"%\n", b"\r\n"]))
        out += token
    return out + b"\n"


class Writer:
    """Writes a PDF of which all is random but its meaning."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._objects: dict[int, list[bytes]] = {}

    def add(self, *written: bytes) -> bytes:
        """Add an object, the last of its definitions in force; return a reference to it."""
        number = len(self._objects) + 1
        self._objects[number] = list(written)
        return b"%d 0 R" % number

    def direct(self, value: bytes) -> bytes:
        """Return a value, or a reference to it."""
        return self.add(respelled(value, self._chance)) if self._chance.random() < 0.3 else value

    def stream(self, data: bytes, head: bytes = b"") -> bytes:
        if self._chance.random() < 0.5:
            data, head = zlib.compress(data), head + b"/Filter/FlateDecode"
        head = respelled(b"<<%s/Length %s>>" % (head, self.direct(b"%d" % len(data))), self._chance)
        return self.add(head.rstrip() + b"\nstream\n" + data + b"\nendstream")

    def written(self, root: bytes) -> bytes:
        packed = [n for n, each in self._objects.items() if b"stream" not in each[-1] and self._chance.random() < 0.5]
        data, index, places = b"", b"", {}
        for at, number in enumerate(packed):
            index += b"%d %d " % (number, len(data))
            data += self._objects.pop(number)[-1] + b" "
            places[number] = b"\x02" + (1_000).to_bytes(4) + bytes([at])
        body = zlib.compress(index + data)
        head = b"<</Type/ObjStm/N %d/First %d/Filter/FlateDecode/Length %d>>" % (len(packed), len(index), len(body))
        self._objects[1_000] = [respelled(head, self._chance).rstrip() + b"\nstream\n" + body + b"\nendstream"]
        out = b"%PDF-1.7\n"
        for number, versions in self._objects.items():
            for each in versions:
                places[number] = b"\x01" + len(out).to_bytes(4) + b"\0"
                out += b"%d 0 obj" % number + each + b"\nendobj\n"
        places[1_001] = b"\x01" + len(out).to_bytes(4) + b"\0"
        table = b"".join(places.get(number, bytes(6)) for number in range(1_002))
        at = len(out)
        out += b"1001 0 obj<</Type/XRef/W[1 4 1]/Size 1002/Root %s/Length %d>>\nstream\n" % (root, len(table))
        return out + table + b"\nendstream\nendobj\nstartxref\n%d\n%%%%EOF\n" % at


def written_pdf(seed: int) -> bytes:
    """Return a file of a few pages with text, their count now and then another one."""
    chance = random.Random(seed)
    writer = Writer(chance)
    font = writer.add(FONT)
    said = [
        b"BT /F 9 Tf 10 %d Td (%s) Tj ET " % (chance.randrange(700), b"word" * chance.randrange(200)) for _ in "123"
    ]
    form = writer.stream(said[0], b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</Font<</F %s>>>>" % font)
    drawn = b"q /X Do Q " * chance.randrange(5)
    contents = [writer.stream(respelled(each + drawn, chance)) for each in said[1:]]
    resources = writer.direct(b"<</Font<</F %s>>/XObject<</X %s>>>>" % (font, form))
    pages = []
    for _ in range(chance.randrange(1, 9)):
        shown = writer.direct(b"[%s]" % b" ".join(chance.choices(contents, k=chance.randrange(1, 4))))
        kind = chance.choice([b"/Type/Page", b"/Type/Page", b"", b"/Type " + writer.direct(b"/Page")])
        page = b"<<%s/MediaBox[0 0 600 800]/Contents %s/Resources %s>>" % (kind, shown, resources)
        pages.append(writer.add(b"<</Kids[]>>", respelled(page, chance)))
    while len(pages) > 1 or chance.random() < 0.5:
        kids, pages = pages[:3], pages[3:]
        count = writer.direct(b"%d" % chance.choice([len(kids), len(kids), 30]))
        node = b"<<%s/Count %s/Kids %s>>" % (
            chance.choice([b"/Type/Pages", b""]),
            count,
            writer.direct(b"[%s]" % b" ".join(kids)),
        )
        pages.append(writer.add(respelled(node, chance)))
    if len(pages) == 1:
        pages.append(writer.add(respelled(b"<</Type/Pages/Count 9/Kids[%s]>>" % pages[0], chance)))
    return writer.written(writer.add(respelled(b"<</Type/Catalog/Pages %s>>" % pages[-1], chance)))
