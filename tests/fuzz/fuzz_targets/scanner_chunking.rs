//! The scanner says the same of a stream however it is cut: in one piece, byte by byte, and in pieces
//! of sizes taken from the input, under wide and under tight limits.

#![no_main]

#[allow(dead_code)]
#[path = "../../../src/wire/scanner/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use wire as subject;

const TIGHT: wire::Limits =
    wire::Limits { bytes: 150, elements: 4, depth: 3, attributes: 3, namespaces: 2 };

fuzz_target!(|input: &[u8]| {
    let (sizes, stream) = input.split_at(input.len().min(4));
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size) + 1).collect();
    for limits in [oracle::LIMITS, TIGHT] {
        let whole = oracle::scan(stream, &[], limits);
        oracle::same(&whole, &oracle::scan(stream, &[1], limits));
        oracle::same(&whole, &oracle::scan(stream, &sizes, limits));
    }
});
