//! Types of columns: one name for each, and which may take the place of which without a release noticing.

/// The type in one spelling: aliases give way to the name that the standard or the catalogue uses.
pub(crate) fn normal(data_type: &str) -> String {
    const ALIASES: &[(&str, &str)] = &[
        ("int", "integer"),
        ("int4", "integer"),
        ("int8", "bigint"),
        ("int2", "smallint"),
        ("serial", "integer"),
        ("serial4", "integer"),
        ("bigserial", "bigint"),
        ("serial8", "bigint"),
        ("smallserial", "smallint"),
        ("bool", "boolean"),
        ("float8", "double precision"),
        ("float4", "real"),
        ("decimal", "numeric"),
        ("varchar", "character varying"),
        ("char", "character"),
        ("bpchar", "character"),
        ("timestamptz", "timestamp with time zone"),
        ("timestamp without time zone", "timestamp"),
        ("timetz", "time with time zone"),
        ("varbit", "bit varying"),
    ];
    let text = data_type.to_lowercase().replace('"', "");
    let text = text.strip_prefix("pg_catalog . ").unwrap_or(&text);
    // `varchar ( 255 )` and `timestamp ( 3 ) with time zone`: the number stands apart.
    let (head, rest) = text.split_once('(').unwrap_or((text, ""));
    let (number, tail) = rest.split_once(')').unwrap_or(("", rest));
    let name = format!("{} {}", head.trim(), tail.trim());
    let (name, array) = name.trim().split_once('[').unwrap_or((name.trim(), "-"));
    let name = name.trim();
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    let array = if array == "-" { "" } else { "[]" };
    match number.replace(' ', "") {
        number if number.is_empty() => format!("{name}{array}"),
        number => format!("{name}({number}){array}"),
    }
}

/// Whether values of `new` read, and values of `old` write, as before: only limits of texts and numbers grew. A wider integer is
/// none: drivers with types refuse it where they expect the narrower one.
pub(crate) fn only_widens(old: &str, new: &str) -> bool {
    let (old, new) = (normal(old), normal(new));
    if old == new {
        return true;
    }
    let ((old_name, old_limit), (new_name, new_limit)) = (parts(&old), parts(&new));
    let is_text = |name: &str| ["text", "character varying"].contains(&name);
    if is_text(old_name) && is_text(new_name) {
        return match (old_limit, new_limit) {
            (_, None) => true,
            (Some(old), Some(new)) => number(new) >= number(old),
            (None, Some(_)) => false,
        };
    }
    if old_name == "numeric" && new_name == "numeric" {
        let split = |limit: &str| {
            let (precision, scale) = limit
                .split_once(',')
                .map_or((limit.to_owned(), "0".to_owned()), |(a, b)| (a.to_owned(), b.to_owned()));
            (number(&precision), number(&scale))
        };
        return match (old_limit.map(split), new_limit.map(split)) {
            (_, None) => true,
            (Some((old, old_scale)), Some((new, scale))) => new >= old && scale == old_scale,
            (None, Some(_)) => false,
        };
    }
    false
}

fn parts(normal: &str) -> (&str, Option<&str>) {
    match normal.split_once('(') {
        Some((name, rest)) if rest.ends_with(')') => (name, Some(&rest[..rest.len() - 1])),
        _ => (normal, None),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_one_spelling() {
        for (given, expected) in [
            ("varchar ( 255 )", "character varying(255)"),
            ("VARCHAR(255)", "character varying(255)"),
            ("int4", "integer"),
            ("timestamp ( 3 ) with time zone", "timestamp with time zone(3)"),
            ("text [ ]", "text[]"),
            ("numeric(10, 2)", "numeric(10,2)"),
            ("pg_catalog . int8", "bigint"),
        ] {
            assert_eq!(normal(given), expected, "{given}");
        }
    }

    #[test]
    fn only_limits_may_grow() {
        for (old, new) in [
            ("varchar(10)", "varchar(20)"),
            ("varchar(10)", "text"),
            ("int", "integer"),
            ("numeric(5,2)", "numeric(9,2)"),
        ] {
            assert!(only_widens(old, new) && (old == "int" || !only_widens(new, old)), "{old} {new}");
        }
        for (old, new) in [
            ("integer", "bigint"),
            ("text", "varchar(5)"),
            ("numeric(5,2)", "numeric(9,3)"),
            ("text", "jsonb"),
        ] {
            assert!(!only_widens(old, new), "{old} {new}");
        }
    }
}
