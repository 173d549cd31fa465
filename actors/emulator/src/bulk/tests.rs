use std::io::{self, Read as _};

use flate2::read::GzDecoder;

use super::*;

#[test]
fn a_large_body_has_the_length_asked_for_and_its_hash_is_that_of_its_pieces() {
    for bytes in [0, 1, 65_536, 65_537, 1_000_000] {
        let whole: Vec<u8> = big_pieces(bytes).flatten().collect();
        assert_eq!(whole.len() as u64, bytes);
        assert_eq!(format!("{:x}", Sha256::digest(&whole)), big_sha256(bytes));
    }
}

#[test]
fn no_two_pieces_of_a_large_body_are_equal() {
    let pieces: Vec<Bytes> = big_pieces(16 << 20).collect();
    for (i, piece) in pieces.iter().enumerate() {
        assert!(!pieces.iter().skip(i + 1).any(|other| other == piece), "piece {i}");
    }
}

#[test]
fn a_bomb_is_valid_gzip_of_exactly_so_many_zeros() {
    for mib in [1, 2, 3, 200] {
        let zipped: Vec<u8> = bomb_pieces(mib << 20).flatten().collect();
        assert!((zipped.len() as u64) < (mib << 20) / 500, "{} for {mib} MiB", zipped.len());
        let mut reader = GzDecoder::new(zipped.as_slice());
        let mut expanded = 0;
        let mut buffer = vec![0xff; 1 << 20];
        loop {
            // The decoder checks length and checksum at the end.
            let read = reader.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            assert!(buffer.iter().take(read).all(|byte| *byte == 0));
            expanded += read as u64;
        }
        assert_eq!(expanded, mib << 20);
    }
}

#[test]
fn a_bomb_of_16_gib_costs_16_mib_at_most() {
    let length: u64 = bomb_pieces(16 << 30).map(|piece| piece.len() as u64).sum();
    assert!((8 << 20..=20 << 20).contains(&length), "{length}");
    let mut start = GzDecoder::new(io::Cursor::new(
        bomb_pieces(16 << 30).take(4).flatten().collect::<Vec<u8>>(),
    ));
    let mut some = vec![0xff; 1 << 20];
    start.read_exact(&mut some).unwrap();
}
