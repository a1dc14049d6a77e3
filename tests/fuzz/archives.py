"""Files of `torch.save` around a drawn pickle: zip archives and the older form, that lie now and then."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from typing import Any

from cases import FORMATS, Case, Draw
from pickles import VIEW, Program, metadata, mutated, number, optimizer, state_dict, tensor, text
from texts import CONFIG


def zipped(draw: Draw, pickled: bytes) -> bytes:
    """The zip form, with records that lie now and then."""
    folder = (
        draw.choice(("archive", "m"))
        if draw.chance(0.95)
        else draw.choice(("", "../x", "a/b", "a//", "/a", draw.word()))
    )
    folder = f"{folder}/" if folder else ""
    stored = zipfile.ZIP_STORED if draw.chance(0.93) else zipfile.ZIP_DEFLATED
    entries = [
        ("data.pkl", pickled),
        ("byteorder", b"little"),
        ("data/0", bytes(range(128))),
        ("data/1", bytes(range(128))),
        ("version", b"3\n"),
    ]
    if draw.chance(0.25):
        at = draw.randrange(len(entries))
        kind = draw.randrange(5)
        if kind == 0:
            del entries[at]
        elif kind == 1:
            entries.append(entries[at])
        elif kind == 2:
            entries[at] = (
                entries[at][0],
                draw.choice((entries[at][1][:-1], b"", b"big", draw.randbytes(5), bytes(300))),
            )
        elif kind == 3:
            entries[at] = (
                draw.choice(("data/0", "constants.pkl", "data/../0", "code/x.py", draw.text().replace("\0", ""))),
                entries[at][1],
            )
        else:
            entries.append((".format_version", b"1"))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", stored) as archive:
        warnings.simplefilter("ignore")
        for name, raw in entries:
            archive.writestr((folder + name).replace("\0", "")[:10_000] or "x", raw)
    whole = bytearray(out.getvalue())
    if draw.chance(0.12):  # a number in a local header, the directory, or the end record
        marks = [
            i
            for i in range(len(whole) - 3)
            if whole[i : i + 2] == b"PK" and whole[i + 2 : i + 4] in (b"\1\2", b"\3\4", b"\5\6")
        ]
        at = draw.choice(marks) + draw.randrange(4, 46)
        if at + 4 <= len(whole):
            whole[at : at + draw.choice((1, 2, 4))] = draw.choice(
                (b"\0", b"\xff\xff", b"\xff\xff\xff\xff", draw.randbytes(4))
            )
    return draw.damaged(bytes(whole)) if draw.chance(0.05) else bytes(whole)


def legacy(draw: Draw, pickled: bytes) -> bytes:
    """The form before torch 1.6: five pickles, and the storages behind them."""
    magic = 0x1950A86A20F9469CFC6C if draw.chance(0.95) else draw.number()
    about = (
        b"}"
        b"("
        + text("protocol_version")
        + b"M\xe9\x03"
        + text("little_endian")
        + draw.choice((b"\x88", b"\x88", b"\x89", b"N"))
        + b"u"
    )
    keys = draw.choice(([text("0"), text("1")], [text("0")], [text("1"), text("0")], [number(0)], []))
    parts = [b"\x80\x02" + part + b"." for part in (number(magic), number(1001), about)]
    parts += [pickled, b"\x80\x02]" + b"(" + b"".join(keys) + b"e."]
    for _ in keys:
        count = 32 if draw.chance(0.9) else draw.number() % (1 << 64)
        parts.append(struct.pack("<Q", count) + bytes(128))
    if draw.chance(0.06):
        at = draw.randrange(len(parts))
        parts[at] = draw.choice((b"", draw.damaged(parts[at]), parts[at] * 2))
    return b"".join(parts)


def drawn_pickle(draw: Draw, program: Program | None = None) -> bytes:
    """A file of `torch.save`, in one of its forms; now and then a bare pickle."""
    program = state_dict(draw) if program is None else program
    form = draw.random()
    if (form < 0.8) is not draw.chance(0.01):
        program = [part for part in program if part is not VIEW[0]]
    pickled = mutated(draw, program)
    return zipped(draw, pickled) if form < 0.8 else legacy(draw, pickled) if form < 0.97 else pickled


def pickle_case(draw: Draw) -> Case:
    """A directory of one pickle, and an honest config."""
    return Case("pickle", {"config.json": CONFIG, "pytorch_model.bin": drawn_pickle(draw)})


def optimizer_case(draw: Draw) -> Case:
    """Sound weights beside an optimizer's state."""
    from cases import written
    from weights import PAIR, drawn_weights, safetensors, sound_header

    header, size = sound_header(Draw("sound"), PAIR)
    files: dict[str, Any] = {
        "config.json": CONFIG,
        "model.safetensors": safetensors(written(header).encode(), bytes(size)),
    }
    kind = draw.randrange(5)
    if kind < 2:
        files[draw.choice(("optimizer.pt", "optimizer.bin", "optimizer_1.bin"))] = drawn_pickle(draw, optimizer(draw))
    elif kind < 4:
        files[draw.choice((".metadata", "optimizer_0/.metadata"))] = mutated(draw, metadata(draw))
        files["__0_0.distcp"] = drawn_pickle(draw, tensor(draw, "0"))
    else:
        files["optimizer.safetensors"] = drawn_weights(draw, tuple(f"state.{name}.exp_avg" for name in PAIR))
    return Case("optimizer", files)


FORMATS |= {"pickle": pickle_case, "optimizer": optimizer_case}
