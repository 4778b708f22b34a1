//! Which backups may go: by count and by age, never the last one. Pure.

/// How long backups stay. Both bounds must let one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones, however old.
    pub keep: usize,
    /// Younger ones, however many.
    pub keep_seconds: i64,
}

/// A backup that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its name.
    pub id: String,
    /// In seconds since 1970.
    pub taken_at: i64,
}

/// The names of those that may go, oldest first. What is damaged is not among `kept`, so it never counts for the last one.
pub(super) fn expired(kept: &[Kept], retention: Retention, now: i64) -> Vec<String> {
    let mut by_age: Vec<&Kept> = kept.iter().collect();
    by_age.sort_by(|a, b| (a.taken_at, &a.id).cmp(&(b.taken_at, &b.id)));
    let spare = by_age.len().saturating_sub(retention.keep.max(1));
    let is_old = |kept: &&&Kept| now.saturating_sub(kept.taken_at) > retention.keep_seconds;
    by_age[..spare].iter().filter(is_old).map(|kept| kept.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_the_last_one_always() {
        let kept: Vec<Kept> = (0..5).map(|at| Kept { id: at.to_string(), taken_at: at * 100 }).collect();
        let check = |keep, keep_seconds, expected: &[&str]| {
            assert_eq!(expired(&kept, Retention { keep, keep_seconds }, 1000), expected);
        };
        check(2, 0, &["0", "1", "2"]);
        check(2, 850, &["0", "1"]);
        check(0, 0, &["0", "1", "2", "3"]);
        check(9, 0, &[]);
        assert_eq!(expired(&[], Retention { keep: 0, keep_seconds: 0 }, 1), [""; 0]);
        // A clock that went back lets nothing go.
        assert_eq!(expired(&kept, Retention { keep: 1, keep_seconds: 0 }, -5), [""; 0]);
    }
}
