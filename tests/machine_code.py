"""What a GPU kernel's machine code holds: its loops, and how many instructions each of them takes.

    python -m tests.machine_code kernel.cubin [NAME]     # loops of the kernels whose name contains NAME

Kernels that turn pairs of rows into coefficients are limited by the instructions that they issue per pair, and a
compiler's output says how many these are without a GPU. NVIDIA's machine code (nvdisasm) and AMD's assembler are read.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_LABEL = re.compile(r"^\s*(\.L[\w$.]+):")
_SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P[\dT]+\s+)?([A-Z][\w.]*)(.*?);")
_SASS_TARGET = re.compile(r"`\((\.L[\w$.]+)\)")
_AMD = re.compile(r"^\s+([a-z]\w+)\s*(.*)$")

EXPONENTIALS = ("MUFU.EX2", "v_exp_f32")
PRODUCTS = ("HMMA", "HGMMA", "DMMA", "UTCHMMA", "v_mfma")
COPIES = ("LDG", "LDGSTS", "UTMALDG", "global_load", "buffer_load")
SPILLS = ("LDL", "STL", "scratch_load", "scratch_store")
_WAITING = ("BRA", "SYNCS", "NANOSLEEP", "s_branch")
_NO_INSTRUCTIONS = ("NOP", "s_nop", "s_waitcnt")


@dataclass
class Block:
    """A run of instructions without a jump but at its end. `followers`: indices of the blocks that may come next."""

    names: list[str] = field(default_factory=list)
    followers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """Blocks `first`..`last` of a kernel, where the last jumps back to the first; for code without a loop, all of it.

    `nested`: the loops inside, which may run any number of times: their instructions are not among those of this one.
    """

    blocks: Sequence[Block]
    first: int
    last: int
    nested: tuple[Loop, ...] = ()

    @cached_property
    def path(self) -> Counter[str]:
        """Instructions of one round by name, without nested loops: on the shortest of the ways that skip the fewest
        exponentials, products and copies. Where a tile at an edge has a body of its own it is not the one that counts,
        as it is longer."""
        best: dict[int, tuple[tuple[int, ...], Counter[str]]] = {}
        for index in range(self.last, self.first - 1, -1):
            own = Counter() if self._in_nested(index) else Counter(self.blocks[index].names)
            behind = [best[f] for f in self.blocks[index].followers if index < f <= self.last and f in best]
            count = max(behind, key=lambda way: way[0])[1] if behind else Counter()
            total = own + count
            best[index] = (_merit(total), total)
        return best[self.first][1]

    @property
    def instructions(self) -> int:
        return sum(self.path.values())

    def count(self, names: Sequence[str]) -> int:
        """Instructions of one round whose name begins with one of `names`."""
        return _count(self.path, names)

    def _in_nested(self, index: int) -> bool:
        return any(loop.first <= index <= loop.last for loop in self.nested)


def _merit(path: Counter[str]) -> tuple[int, ...]:
    return (*(_count(path, names) for names in (EXPONENTIALS, PRODUCTS, COPIES)), -sum(path.values()))


def _count(path: Counter[str], names: Sequence[str]) -> int:
    return sum(number for name, number in path.items() if name.startswith(tuple(names)))


def pair_loop(text: str) -> Loop:
    """The loop that holds most exponentials, and of two such the inner one; all code where none holds any."""
    blocks = _blocks(text)
    found = loops(blocks)
    with_pairs = [loop for loop in found if loop.count(EXPONENTIALS)]
    if not with_pairs:
        return Loop(blocks, 0, len(blocks) - 1, tuple(found))
    return max(with_pairs, key=lambda loop: (loop.count(EXPONENTIALS), loop.first - loop.last))


def loops(blocks: Sequence[Block]) -> list[Loop]:
    """Every loop, inner ones first. Jumps that share their target are one loop."""
    ends: dict[int, int] = {}
    for index, block in enumerate(blocks):
        for follower in block.followers:
            if follower <= index and not _waits(blocks, follower, index):
                ends[follower] = max(index, ends.get(follower, 0))
    found: list[Loop] = []
    for first, last in sorted(ends.items(), key=lambda ends: ends[1] - ends[0]):
        inside = tuple([loop for loop in found if first <= loop.first and loop.last <= last])
        found.append(Loop(blocks, first, last, inside))
    return found


def _waits(blocks: Sequence[Block], first: int, last: int) -> bool:
    """Whether a loop does nothing but try again: for a barrier, or the trap behind a kernel's end."""
    return all(name.startswith(_WAITING) for block in blocks[first : last + 1] for name in block.names)


def _blocks(text: str) -> list[Block]:
    """The blocks of one kernel. A conditional jump ends a block, and may fall through."""
    blocks, labels, jumps = [Block()], {}, {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            if blocks[-1].names or len(blocks) - 1 in jumps:
                blocks.append(Block())
            labels[label[1]] = len(blocks) - 1
            continue
        parsed = _instruction(line)
        if parsed is None:
            continue
        name, target, conditional, ends = parsed
        if name not in _NO_INSTRUCTIONS:
            blocks[-1].names.append(name)
        if target is not None or ends:
            jumps[len(blocks) - 1] = (target, conditional)
            blocks.append(Block())
    for index, block in enumerate(blocks):
        target, conditional = jumps.get(index, (None, True))
        if target in labels:
            block.followers.append(labels[target])
        if conditional and index + 1 < len(blocks):
            block.followers.append(index + 1)
    return blocks


def _instruction(line: str) -> tuple[str, str | None, bool, bool] | None:
    """Name, target of a jump, whether the next instruction may follow, and whether a block ends here."""
    if sass := _SASS.match(line):
        predicate, name, rest = sass.groups()
        operation = name.partition(".")[0]
        target = _SASS_TARGET.search(rest) if operation == "BRA" else None
        conditional = predicate is not None or (operation == "BRA" and re.search(r"\bU?P\d", rest) is not None)
        ends = operation in ("BRA", "EXIT", "RET")
        return name, target[1] if target else None, conditional or not ends, ends
    if amd := _AMD.match(line):
        name, rest = amd.groups()
        branch = name.startswith(("s_cbranch", "s_branch"))
        target_name = rest.split()[0] if branch else None
        ends = branch or name == "s_endpgm"
        return name, target_name, not ends or name.startswith("s_cbranch"), ends
    return None


def kernels(disassembly: str) -> dict[str, str]:
    """The text of each kernel in nvdisasm's or AMD's output, by (mangled) name."""
    sections = re.split(r"^\s*\.section\s+\.text\.(\w+).*$", disassembly, flags=re.MULTILINE)
    if len(sections) > 1:
        return dict(zip(sections[1::2], sections[2::2], strict=True))
    name = re.search(r"^(\w+):\s+; @", disassembly, flags=re.MULTILINE)
    return {name[1] if name else "": disassembly.partition("\t.end_amdhsa_kernel")[0]}


def disassembly(cubin: Path) -> str:
    """By the nvdisasm that comes with CUDA or with Triton."""
    return subprocess.run([_nvdisasm(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout


def _nvdisasm() -> str:
    tool = shutil.which("nvdisasm") or shutil.which("/usr/local/cuda/bin/nvdisasm")
    if tool is None:
        import triton

        tool = str(Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm")
    return tool


def _print(name: str, text: str) -> None:
    chosen = pair_loop(text)
    print(f"{name}: {len(loops(chosen.blocks))} loops; of the one with the exponentials")
    for heading, names in (
        ("exponentials", EXPONENTIALS),
        ("products", PRODUCTS),
        ("copies", COPIES),
        ("spills", SPILLS),
        ("all", ("",)),
    ):
        print(f"  {heading:13}{chosen.count(names):6}")
    for inner in chosen.nested:
        print(f"  a loop inside of {inner.instructions} instructions, {inner.count(PRODUCTS)} products")
    print("  " + ", ".join(f"{count} {name}" for name, count in chosen.path.most_common(40)))


if __name__ == "__main__":
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, text in kernels(disassembly(Path(sys.argv[1]))).items():
        if part in name:
            _print(name, text)
