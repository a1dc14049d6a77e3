"""Drawn checkpoints of trainers, inside too: directories of DCP and DeepSpeed, archives of NeMo."""

from __future__ import annotations

import io
import struct
import tarfile
from typing import Any

from archives import drawn_pickle
from cases import FORMATS, Case, Draw, encoded, written
from pickles import Program, metadata, mutated, optimizer, state_dict, tensor, text
from texts import CONFIG


def _trained(format_: str, draw: Draw, files: dict[str, Any]) -> Case:
    """The directory, now and then with a config or weights in it, or one of its files by name; all below seldom."""
    if draw.chance(0.2):
        files["config.json"] = CONFIG
    if draw.chance(0.1):
        files[draw.choice(("model.safetensors", "pytorch_model.bin", "adapter_config.json"))] = drawn_pickle(draw)
    place = f"{{}}/{draw.choice(sorted(files))}" if draw.chance(0.6) else "{}"
    return Case(format_, files, ("--recursive", "{}") if draw.chance(0.1) else (place,))


def dcp_case(draw: Draw) -> Case:
    """The metadata and a part of a distributed checkpoint, in the folder itself or as accelerate names it."""
    folder = draw.choice(("", "pytorch_model_fsdp_0/", "iter_0000001/"))
    files: dict[str, Any] = {f"{folder}.metadata": mutated(draw, metadata(draw))}
    for part in ("__0_0.distcp", "__1_0.distcp", "common.pt"):
        if draw.chance(0.7):
            files[folder + part] = drawn_pickle(draw, tensor(draw, "0") if part.endswith("distcp") else None)
    return _trained("dcp", draw, files)


def _below(key: str, program: Program) -> Program:
    return [b"}", text(key), *program, b"s"]


def deepspeed_case(draw: Draw) -> Case:
    """The model's and the optimizer's states of a step, a script that would be seen if it ran, and a step's name."""
    step = draw.choice(("", "global_step5/", "global_step5/"))
    files: dict[str, Any] = {
        f"{step}mp_rank_00_model_states.pt": drawn_pickle(draw, _below("module", state_dict(draw))),
        f"{step}zero_pp_rank_0_mp_rank_00_optim_states.pt": drawn_pickle(
            draw, _below("optimizer_state_dict", optimizer(draw))
        ),
    }
    if draw.chance(0.7):
        files["zero_to_fp32.py"] = b"open('/etc/hostname').close()\n"
    if draw.chance(0.7):
        files["latest"] = encoded(draw, draw.choice(("global_step5", "../x", "/etc", draw.text())))
    return _trained("deepspeed", draw, files)


def _tar(draw: Draw, members: dict[str, bytes]) -> bytes:
    """A tar archive, plain or compressed, with links and names that lead out, and numbers that lie."""
    made = io.BytesIO()
    mode = draw.choice(("w", "w", "w:gz"))
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]  # the words of a mode
        for name, raw in members.items():
            info = tarfile.TarInfo(draw.choice((name, name, name, "../x", "/etc/x", "a" * 300, f"./{name}")))
            info.size, info.mtime = len(raw), draw.getrandbits(30)
            if draw.chance(0.1):
                info.type, info.linkname, info.size = tarfile.SYMTYPE, draw.choice(("/etc/hostname", "..", name)), 0
            archive.addfile(info, io.BytesIO(raw))
    whole = bytearray(made.getvalue())
    if mode == "w" and draw.chance(0.1):  # the size in the first header
        whole[124:136] = draw.choice((b"77777777777\0", b"\x80" + struct.pack(">3xQ", 1 << 62), draw.randbytes(12)))
    return draw.damaged(bytes(whole)) if draw.chance(0.2) else bytes(whole)


def nemo_case(draw: Draw) -> Case:
    """An archive of NeMo: the model's config and a pickle, or the folders of a distributed checkpoint."""
    config = encoded(draw, written(draw.value()))
    if draw.chance(0.6):
        members = {"model_config.yaml": config, "model_weights.ckpt": drawn_pickle(draw)}
    else:
        members = {"model_weights/.metadata": mutated(draw, metadata(draw)), "model_weights/metadata.json": config}
    files: dict[str, Any] = {draw.choice(("model.nemo", "x-1.nemo")): _tar(draw, members)}
    if draw.chance(0.3):  # an archive that was unpacked in place
        files |= members
    return _trained("nemo", draw, files)


FORMATS |= {"dcp": dcp_case, "deepspeed": deepspeed_case, "nemo": nemo_case}
