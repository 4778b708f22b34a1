//! A door for the fuzz targets of `ci/fuzz`, which only exists there: what it leads to is private.

use stdx::Digest;

use crate::store::{decode, encode};

/// Reads the bytes as the file of a table, and as a table in such a file; what is read is written and read again.
pub fn table(bytes: &[u8]) {
    drop(decode(bytes));
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let Ok(canonical) = stdx::json::canonical(&value) else { return };
    let file = serde_json::json!({ "digest": Digest::of(canonical), "table": value });
    if let Ok(table) = decode(file.to_string().as_bytes()) {
        let written = encode(&table).expect("a table is plain data");
        assert_eq!(decode(&written).expect("what was written can be read"), table);
    }
}
