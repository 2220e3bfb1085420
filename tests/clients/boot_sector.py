"""A guest in 512 bytes: a boot sector that writes numbered sectors through the BIOS, in a loop, and reports each on a debug port.

Real mode, int 13h AH=43h (extended write), one sector per call. Each sector holds its write's number 128 times. After each
acknowledged write one byte goes to port 0xE9 (QEMU's debugcon), so the host counts what the guest knows to be written; at the
end, or at the first error, a code goes to port 0xF4 (isa-debug-exit), and QEMU ends with 2 × code + 1.
"""

from __future__ import annotations

import struct

ORIGIN = 0x7C00
SECTOR = 512
DATA = ORIGIN + 0x180  # where the variables stand, behind the code
DRIVE, COUNTER, PACKET = DATA, DATA + 4, DATA + 8
PACKET_LBA = PACKET + 8
BUFFER = 0x8000

DONE, FAILED = 0x10, 0x11
EXIT_DONE, EXIT_FAILED = 2 * DONE + 1, 2 * FAILED + 1


def boot_sector(*, first: int, sectors: int, writes: int) -> bytes:
    """The machine code: ``writes`` writes, numbered from 0, round and round over ``sectors`` sectors from ``first``."""

    def at(address: int) -> bytes:
        return struct.pack("<H", address)

    def number(value: int) -> bytes:
        return struct.pack("<I", value)

    start = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c fc")  # ax, ds, es, ss = 0; sp = 0x7c00; cld
    start += b"\x88\x16" + at(DRIVE)  # mov [drive], dl
    fill = b"\xbf" + at(BUFFER) + b"\xb9" + at(SECTOR // 4)  # mov di, buffer; mov cx, 128
    fill += b"\x66\xa1" + at(COUNTER) + b"\x66\xf3\xab"  # mov eax, [counter]; rep stosd
    write = (
        b"\xb8\x00\x43\x8a\x16" + at(DRIVE) + b"\xbe" + at(PACKET) + b"\xcd\x13"
    )  # mov ax, 0x4300; mov dl, [drive]; mov si, packet; int 13h
    report = b"\xa0" + at(COUNTER) + b"\xe6\xe9"  # mov al, [counter]; out 0xe9, al
    report += b"\x66\xff\x06" + at(COUNTER) + b"\x66\xff\x06" + at(PACKET_LBA)  # inc dword [counter]; inc dword [lba]
    wrap = b"\x66\x81\x3e" + at(PACKET_LBA) + number(first + sectors)  # cmp dword [lba], end
    reset = b"\x66\xc7\x06" + at(PACKET_LBA) + number(first)  # mov dword [lba], first
    wrap += b"\x72" + bytes([len(reset)]) + reset  # jb over it
    again = b"\x66\x81\x3e" + at(COUNTER) + number(writes)  # cmp dword [counter], writes
    body = fill + write + b"\x72\x00" + report + wrap + again
    again += b"\x72" + struct.pack("<b", -(len(body) + 2))  # jb fill
    done = b"\xb0" + bytes([DONE]) + b"\xeb\x02"  # mov al, done; jmp over the next
    failed = b"\xb0" + bytes([FAILED])  # mov al, failed
    leave = b"\xe6\xf4\xf4\xeb\xfd"  # out 0xf4, al; hlt; jmp to it
    on_error = b"\x72" + bytes([len(report) + len(wrap) + len(again) + len(done)])  # jc failed
    code = start + fill + write + on_error + report + wrap + again + done + failed + leave
    assert len(code) <= DATA - ORIGIN, "the code runs into its variables"
    packet = struct.pack("<BBHHHQ", 16, 0, 1, BUFFER, 0, first)
    variables = struct.pack("<B3xI", 0, 0) + packet
    sector = code.ljust(DATA - ORIGIN, b"\0") + variables
    return sector.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def sector_of(number: int) -> bytes:
    """What the guest writes as its write ``number``."""
    return struct.pack("<I", number) * (SECTOR // 4)


def last_write(position: int, *, sectors: int, writes: int) -> int | None:
    """The number of the last of ``writes`` writes that went to the sector at ``position`` (from 0); None: there was none."""
    if position >= writes:
        return None
    return position + (writes - 1 - position) // sectors * sectors
