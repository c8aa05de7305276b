//! The scanner accepts what rxml accepts, refuses what it refuses, and every stanza says the same to
//! both, alone too. Differences on purpose are listed in `src/wire/scanner/oracle.rs`.

#![no_main]

#[allow(dead_code)]
#[path = "../../../src/wire/scanner/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use wire as subject;

fuzz_target!(|input: &[u8]| {
    let seen = oracle::scan(input, &[], oracle::LIMITS);
    oracle::against_rxml(input, &seen);
    for frame in &seen.frames {
        oracle::stands_alone(frame.bytes(), &oracle::outline(frame.root()));
    }
});
