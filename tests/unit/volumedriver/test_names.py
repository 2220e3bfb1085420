"""Names are forever: a name that changes loses data that lie under the old one."""

import pytest

from registry import ObjectKind, TlogName
from volumedriver.names import BirthRecord, Place, place_of
from vpool.errors import Corrupt

VOLUME = "0123456789abcdef0123456789abcdef"
VPOOL = "f" * 32


def test_a_volume_has_a_bucket_of_its_own() -> None:
    place = place_of(VOLUME, ObjectKind.VOLUME, VPOOL)
    assert place == Place(f"vpool-{VOLUME}", "")
    assert place.sco(2, 17) == "sco/0000000000000002/0000000000000011"
    assert place.map(3, 1) == "map/0000000000000003/0000000000000001"


def test_logs_of_files_share_one_bucket() -> None:
    place = place_of(VOLUME, ObjectKind.FILE_LOG, VPOOL)
    assert place.bucket == f"vpool-{VPOOL}-files"
    assert place.sco(1, 1).startswith(f"{VOLUME}/sco/")


def test_bucket_names_fit_every_store() -> None:
    for kind in (ObjectKind.VOLUME, ObjectKind.FILE_LOG):
        bucket = place_of(VOLUME, kind, VPOOL).bucket
        assert 3 <= len(bucket) <= 63
        assert bucket == bucket.lower()


def test_a_combined_tlog_is_found_behind_its_sco() -> None:
    place = Place("b", "")
    assert place.tlog(TlogName(epoch=1, number=9, combined_sco=0, checksum=5)) == "tlog/0000000000000001/0000000000000009"
    assert place.tlog(TlogName(epoch=1, number=9, combined_sco=4, checksum=5)) == place.sco(1, 4)


def test_the_birth_record_reads_back_and_is_the_same_every_time() -> None:
    record = BirthRecord(VPOOL, VOLUME, "volume", 4)
    assert record.encode() == record.encode()
    assert BirthRecord.decode(record.encode()) == record


def test_a_damaged_birth_record_is_refused_at_every_byte() -> None:
    data = BirthRecord(VPOOL, VOLUME, "volume", 4).encode()
    for at in range(len(data) - 1):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(Corrupt):
            BirthRecord.decode(damaged)
    for end in range(len(data) - 1):
        with pytest.raises(Corrupt):
            BirthRecord.decode(data[:end])
