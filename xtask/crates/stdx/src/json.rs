//! Canonical JSON: one value, one byte sequence. Keys are sorted by their bytes whatever map `serde_json` was built with,
//! there is no white space, and floats are refused because their shortest form is a property of a library version.

use anyhow::{Result, bail};
use serde_json::Value;

/// The canonical bytes of `value`.
///
/// # Errors
/// When `value` holds a number that is not an integer.
pub fn canonical(value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => serde_json::to_writer(out, value)?,
        Value::Number(number) if number.is_f64() => {
            bail!("canonical JSON has no place for the float {number}")
        }
        Value::Number(_) => serde_json::to_writer(out, value)?,
        Value::Array(items) => separated(b"[]", items, out, write)?,
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(key, _)| key.as_bytes());
            separated(b"{}", &members, out, |(key, value), out| {
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write(value, out)
            })?;
        }
    }
    Ok(())
}

fn separated<T>(
    brackets: &[u8; 2],
    items: &[T],
    out: &mut Vec<u8>,
    mut each: impl FnMut(&T, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    out.push(brackets[0]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(item, out)?;
    }
    out.push(brackets[1]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_sorted_at_every_depth() {
        let value = json!({"b": [1, {"z": null, "a": true}], "a": "ü\n"});
        assert_eq!(
            String::from_utf8(canonical(&value).unwrap()).unwrap(),
            r#"{"a":"ü\n","b":[1,{"a":true,"z":null}]}"#
        );
    }

    #[test]
    fn floats_are_refused() {
        assert!(canonical(&json!({"a": [1.5]})).is_err());
    }
}
