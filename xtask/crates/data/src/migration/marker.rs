//! Comments that excuse a statement: `slipway: allow <rule>[, <rule>] because <reason>` and `slipway: contract after <migration>`.

use crate::sql::Comment;

use super::rules;

/// An excuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marker {
    /// These rules may be broken.
    Allow { line: u32, rules: Vec<&'static str>, because: String },
    /// What is taken away is not used by code that has this migration.
    ContractAfter { line: u32, migration: String },
}

/// A comment that is meant as a marker and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: u32,
    pub(super) why: String,
}

/// The marker in a comment; `None` where it is an ordinary one.
pub(super) fn parse(comment: &Comment) -> Option<Result<Marker, Malformed>> {
    let text = comment.text.strip_prefix("slipway:")?.trim();
    Some(marker(text, comment.line).map_err(|why| Malformed { line: comment.line, why }))
}

fn marker(text: &str, line: u32) -> Result<Marker, String> {
    if let Some(migration) = text.strip_prefix("contract after ") {
        let migration = migration.trim().to_owned();
        return match migration.is_empty() || migration.contains(char::is_whitespace) {
            true => Err("`contract after` needs the name of one migration".into()),
            false => Ok(Marker::ContractAfter { line, migration }),
        };
    }
    let Some(allowed) = text.strip_prefix("allow ") else {
        return Err(format!(
            "`{text}` is neither `allow <rule> because <reason>` nor `contract after <migration>`"
        ));
    };
    let (names, because) = allowed.split_once(" because ").ok_or("`allow` needs `because` and a reason")?;
    // One word is no reason that the next reader could judge.
    if because.split_whitespace().count() < 2 {
        return Err("`because` needs a reason of more than one word".into());
    }
    let rules = names.split(',').map(|name| match rules::entry(name.trim()) {
        Some(entry) => Ok(entry.name),
        None => Err(format!("there is no rule `{}`", name.trim())),
    });
    Ok(Marker::Allow { line, rules: rules.collect::<Result<_, _>>()?, because: because.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Result<Marker, Malformed>> {
        parse(&Comment { line: 7, text: text.to_owned() })
    }

    #[test]
    fn markers_name_a_rule_and_a_reason() {
        let allow = Marker::Allow {
            line: 7,
            rules: vec!["drop-column", "lock-timeout"],
            because: "nobody ever read it".into(),
        };
        let text = "slipway: allow drop-column, migration/lock-timeout because nobody ever read it";
        assert_eq!(read(text), Some(Ok(allow)));
        let contract = Marker::ContractAfter { line: 7, migration: "0012_stop.sql".into() };
        assert_eq!(read("slipway: contract after 0012_stop.sql"), Some(Ok(contract)));
        assert_eq!(read("the slipway: allow"), None);
        for wrong in [
            "allow drop-column",
            "allow x because of all that",
            "allow drop-column because no",
            "contract after",
            "deny",
        ] {
            assert!(matches!(read(&format!("slipway: {wrong}")), Some(Err(_))), "{wrong}");
        }
    }
}
