//! What Cargo says: its unit graph, its steps; and what is written down about it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        build::fuzzing::graph(text);
        text.lines().for_each(|line| _ = build::fuzzing::step(line));
    }
    if let Ok(record) = deps::Record::parse(data) {
        assert_eq!(deps::Record::parse(record.to_text().unwrap().as_bytes()).unwrap(), record);
    }
    shard::Timings::parse(data);
    drop(shard::Report::parse(data));
});
