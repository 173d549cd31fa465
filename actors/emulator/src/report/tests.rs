use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

#[test]
fn a_report_is_json_and_depends_on_each_of_its_three_parts_only() {
    let body = expected_body("act \"1\"", "daily", "date=2026-01-01&ids=a%2Cb", 5);
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["account"], "act \"1\"");
    assert_eq!(json["params"]["ids"], "a,b");
    assert_eq!(json["rows"].as_array().unwrap().len(), 5);

    let again = expected_body("act \"1\"", "daily", "ids=a%2Cb&date=2026-01-01", 5);
    assert_eq!(body, again, "the order of parameters does not matter");
    let others = [("act 1", "daily", "d=1"), ("b", "hourly", "d=1"), ("b", "daily", "d=2")];
    for (account, kind, query) in others {
        let other = expected_body(account, kind, query, 5);
        let base = expected_body("b", "daily", "d=1", 5);
        let rows = |body: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(body).unwrap()["rows"].clone()
        };
        assert_ne!(rows(&other), rows(&base), "{account} {kind} {query}");
    }
}

#[test]
fn the_query_may_ask_for_more_rows_and_none_is_fine() {
    for (query, rows) in [("rows=2000", 2_000), ("rows=0", 0), ("rows=x", 5)] {
        let body = expected_body("a", "k", query, 5);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["rows"].as_array().unwrap().len(), rows, "{query}");
    }
}

#[test]
fn pieces_are_bounded_and_survive_compression() {
    let pieces: Vec<Bytes> = ReportPieces::new("a", "k", "", 20_000).collect();
    assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 1_024));
    let zipped: Vec<u8> = GzipPieces::new(pieces.into_iter()).flatten().collect();
    let mut plain = Vec::new();
    GzDecoder::new(zipped.as_slice()).read_to_end(&mut plain).unwrap();
    assert!(plain == expected_body("a", "k", "", 20_000));
}
