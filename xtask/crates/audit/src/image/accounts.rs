//! The accounts of an image: /etc/passwd and /etc/shadow as they are in the end.

use super::Report;
use super::read::Content;

pub(super) fn audit(content: &Content, report: &mut Report<'_>) {
    cut(content, report);
    for line in lines(content, "etc/passwd") {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, password, number, ..] = fields.as_slice() else { continue };
        if *number == "0" && *name != "root" {
            report.add_path(
                "image/second-superuser",
                "etc/passwd",
                format!("the user `{name}` has the id 0"),
            );
        }
        if password.is_empty() {
            report.add_path(
                "image/empty-password",
                "etc/passwd",
                format!("the user `{name}` has an empty password"),
            );
        }
    }
    for line in lines(content, "etc/shadow") {
        let mut fields = line.split(':');
        if let (Some(name), Some("")) = (fields.next().filter(|name| !name.is_empty()), fields.next()) {
            report.add_path(
                "image/empty-password",
                "etc/shadow",
                format!("the user `{name}` has an empty password"),
            );
        }
    }
}

/// What lies behind the part that is read may be anything.
fn cut(content: &Content, report: &mut Report<'_>) {
    for path in ["etc/passwd", "etc/shadow"] {
        let item = content.last.get(path).map(|index| &content.all[*index]);
        if item.is_some_and(|item| item.content.as_ref().is_some_and(|read| (read.len() as u64) < item.size))
        {
            report.add_path("image/not-readable", path, "only its beginning was read: it is too long");
        }
    }
}

fn lines(content: &Content, path: &str) -> Vec<String> {
    let bytes = content.last.get(path).and_then(|index| content.all[*index].content.as_deref());
    String::from_utf8_lossy(bytes.unwrap_or_default()).lines().map(str::to_owned).collect()
}
