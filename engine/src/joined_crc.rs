//! The CRC32C of clusters that stand one behind the other, from those of each: `crc32c_combine` for one length, by table.

use std::sync::LazyLock;

use crc32c::crc32c_combine;

use crate::types::CLUSTER;

/// What a cluster of zeros behind it makes of a CRC; linear, so a table per byte is enough.
static ZEROS_BEHIND: LazyLock<[[u32; 256]; 4]> = LazyLock::new(|| {
    let mut tables = [[0; 256]; 4];
    for (byte, table) in tables.iter_mut().enumerate() {
        for bit in 0..8 {
            let one = crc32c_combine(1 << (8 * byte + bit), 0, CLUSTER);
            for value in 1 << bit..2 << bit {
                table[value] = table[value - (1 << bit)] ^ one;
            }
        }
    }
    tables
});

/// The CRC of some bytes with a cluster behind them.
pub fn joined(before: u32, cluster: u32) -> u32 {
    let tables = &*ZEROS_BEHIND;
    let [a, b, c, d] = before.to_le_bytes();
    tables[0][a as usize]
        ^ tables[1][b as usize]
        ^ tables[2][c as usize]
        ^ tables[3][d as usize]
        ^ cluster
}

#[cfg(test)]
mod tests {
    use super::*;
    use crc32c::crc32c;

    /// If this fails, every SCO that goes to the backend has a wrong checksum in its TLog.
    #[test]
    fn it_is_the_crc_of_the_whole() {
        let data: Vec<u8> = (0..CLUSTER as u32 * 9)
            .map(|i| ((i * i) >> 7) as u8)
            .collect();
        let crc = data
            .chunks(CLUSTER)
            .fold(0, |crc, cluster| joined(crc, crc32c(cluster)));
        assert_eq!(crc, crc32c(&data));
        assert_eq!(
            joined(0xDEAD_BEEF, 0x1234_5678),
            crc32c_combine(0xDEAD_BEEF, 0x1234_5678, CLUSTER)
        );
    }
}
