//! A picture of a binary: a treemap, grouped by who keeps the code. A value of its input alone; it holds no script and loads
//! nothing, and its colours follow the viewer's light or dark setting.
//!
//! Source: Bruls, Huizing, van Wijk, "Squarified Treemaps" (2000).

use std::fmt::Write as _;

use crate::bytes::Weight;
use crate::report::{Class, Service, Source};

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 760.0;
const TOP: f64 = 64.0;
const MARGIN: f64 = 16.0;
/// Room for the name of a group above its tiles.
const HEADING: f64 = 22.0;
const GAP: f64 = 2.0;
/// Width of a letter of the labels, about.
const LETTER: f64 = 6.9;
const LINE: f64 = 15.0;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Rect {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

struct Tile {
    label: String,
    title: String,
    bytes: u64,
}

struct Group {
    name: &'static str,
    class: &'static str,
    tiles: Vec<Tile>,
}

impl Group {
    fn bytes(&self) -> u64 {
        self.tiles.iter().map(|tile| tile.bytes).sum()
    }
}

const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1b1f24}
.h{font-size:20px;font-weight:600}.s{fill:#57606a}g .s{fill:#3d444d}.g{font-weight:600}
.bg{fill:#fff}.o rect{fill:#9ec5fe}.t rect{fill:#a8e0b9}.r rect{fill:#ffd8a8}.n rect{fill:#e2d4f7}.u rect{fill:#dfe3e8}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9aa4ae}g .s{fill:#ccd3da}.bg{fill:#0d1117}
.o rect{fill:#1f4b8f}.t rect{fill:#1d5c38}.r rect{fill:#7a4a12}.n rect{fill:#4c3480}.u rect{fill:#333b45}}";

/// The treemap of the service's binary.
pub fn svg(service: &Service, weight: &Weight) -> String {
    let groups = groups(service, weight);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\" aria-label=\"bytes of {name} by package\">\n<style>{STYLE}</style>\n\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"h\" x=\"{MARGIN}\" y=\"32\">{name}</text>\n\
         <text class=\"s\" x=\"{MARGIN}\" y=\"52\">{} in the binary, {} packages; generic code counts for the package that \
         needed it</text>\n",
        size(weight.file),
        weight.packages.len(),
        name = escape(&service.name),
    );
    let area = Rect { x: MARGIN, y: TOP, width: WIDTH - 2.0 * MARGIN, height: HEIGHT - TOP - MARGIN };
    let sizes: Vec<u64> = groups.iter().map(Group::bytes).collect();
    for (group, rect) in groups.iter().zip(squarify(&sizes, area)) {
        write_group(&mut out, group, rect, weight.file);
    }
    out.push_str("</svg>\n");
    out
}

fn groups(service: &Service, weight: &Weight) -> Vec<Group> {
    let mut own = Group { name: "own", class: "o", tiles: vec![] };
    let mut third = Group { name: "third-party", class: "t", tiles: vec![] };
    for (id, bytes) in &weight.packages {
        let Some(used) = service.used.get(id).filter(|_| bytes.total() > 0) else { continue };
        let package = &used.package;
        let title = format!(
            "{}: {} (code {}, data {}, unwinding {})",
            package.spec(),
            size(bytes.total()),
            size(bytes.text),
            size(bytes.data),
            size(bytes.unwind)
        );
        let group = if package.source == Source::Path { &mut own } else { &mut third };
        let is_alone =
            service.of_class(Class::Linked).iter().filter(|one| one.name == package.name).count() == 1;
        let label = if is_alone { package.name.clone() } else { package.spec() };
        group.tiles.push(Tile { label, title, bytes: bytes.total() });
    }
    let single = |class, name: &'static str, bytes: u64, what: &str| {
        let title = format!("{name}: {} ({what})", size(bytes));
        Group { name, class, tiles: vec![Tile { label: String::new(), title, bytes }] }
    };
    let mut groups = vec![
        own,
        third,
        single(
            "r",
            "standard library",
            weight.std.total(),
            "std, core, alloc and what is compiled into them",
        ),
        single("n", "C libraries", weight.native.total(), "the system's C libraries and start code"),
        single("u", "nobody's", weight.unattributed.total(), "mostly constants without names"),
        single("u", "file format", weight.overhead, "headers, relocations, dynamic symbols"),
    ];
    groups.retain(|group| group.bytes() > 0);
    for group in &mut groups {
        group.tiles.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.title.cmp(&b.title)));
    }
    groups.sort_by(|a, b| b.bytes().cmp(&a.bytes()).then_with(|| a.name.cmp(b.name)));
    groups
}

fn write_group(out: &mut String, group: &Group, rect: Rect, file: u64) {
    let share = group.bytes() as f64 * 100.0 / file.max(1) as f64;
    let heading = format!("{} {} ({share:.1} %)", group.name, size(group.bytes()));
    let _ = writeln!(out, "<g class=\"{}\">", group.class);
    let has_heading = rect.height > HEADING + LINE;
    if has_heading {
        // Bold letters are wider, and the next heading must not touch this one.
        let room = rect.width * 0.9 - 8.0;
        let is_short = heading.chars().count() as f64 * LETTER > room;
        let text = fit(if is_short { group.name } else { &heading }, room).unwrap_or_default();
        let _ = writeln!(
            out,
            "<text class=\"g\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            rect.x + 2.0,
            rect.y + 15.0,
            escape(&text)
        );
    }
    let top = if has_heading { HEADING } else { 0.0 };
    let inside = Rect { y: rect.y + top, height: rect.height - top, ..rect };
    let sizes: Vec<u64> = group.tiles.iter().map(|tile| tile.bytes).collect();
    for (tile, place) in group.tiles.iter().zip(squarify(&sizes, inside)) {
        write_tile(out, tile, place);
    }
    out.push_str("</g>\n");
}

fn write_tile(out: &mut String, tile: &Tile, rect: Rect) {
    let width = (rect.width - GAP).max(0.4);
    let height = (rect.height - GAP).max(0.4);
    let _ = write!(
        out,
        "<g><title>{}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\"/>",
        escape(&tile.title),
        rect.x,
        rect.y
    );
    // Half a number says something else than the number.
    let number = Some(size(tile.bytes)).filter(|text| text.chars().count() as f64 * LETTER <= width - 8.0);
    let lines = [(fit(&tile.label, width - 8.0), ""), (number, " class=\"s\"")];
    let mut y = rect.y + LINE;
    for (line, class) in lines.iter().filter(|(line, _)| line.as_deref() != Some("")) {
        let Some(text) = line.as_ref().filter(|_| y < rect.y + height) else { break };
        let _ = write!(out, "<text{class} x=\"{:.1}\" y=\"{y:.1}\">{}</text>", rect.x + 4.0, escape(text));
        y += LINE;
    }
    out.push_str("</g>\n");
}

/// The text, shortened to the width; `None` where too little of it would be left.
fn fit(text: &str, width: f64) -> Option<String> {
    let room = (width / LETTER) as usize;
    let length = text.chars().count();
    match room {
        _ if length <= room => Some(text.to_owned()),
        0..=4 => None,
        _ => Some(text.chars().take(room - 1).chain(['…']).collect()),
    }
}

/// Cuts the rectangle into one for each size, in order, with sides as even as can be. Sizes must fall.
fn squarify(sizes: &[u64], rect: Rect) -> Vec<Rect> {
    let total: f64 = sizes.iter().map(|size| *size as f64).sum();
    let scale = rect.width.max(0.0) * rect.height.max(0.0) / total.max(1.0);
    let areas: Vec<f64> = sizes.iter().map(|size| *size as f64 * scale).collect();
    let mut rest = rect;
    let mut placed = Vec::with_capacity(areas.len());
    let mut start = 0;
    while start < areas.len() {
        let side = rest.width.min(rest.height);
        let mut end = start + 1;
        while end < areas.len() && worst(&areas[start..=end], side) <= worst(&areas[start..end], side) {
            end += 1;
        }
        place_row(&areas[start..end], &mut rest, &mut placed);
        start = end;
    }
    placed
}

/// The most uneven of the rectangles that a row of these areas would have along the side.
fn worst(row: &[f64], side: f64) -> f64 {
    let sum: f64 = row.iter().sum();
    let thickness = sum / side.max(1e-9);
    let ratio = |area: &f64| {
        let length = area / thickness.max(1e-9);
        (length / thickness.max(1e-9)).max(thickness / length.max(1e-9))
    };
    row.iter().map(ratio).fold(0.0, f64::max)
}

fn place_row(row: &[f64], rest: &mut Rect, placed: &mut Vec<Rect>) {
    let sum: f64 = row.iter().sum();
    let is_column = rest.width >= rest.height;
    let side = if is_column { rest.height } else { rest.width };
    let thickness = sum / side.max(1e-9);
    let mut at = 0.0;
    for area in row {
        let length = area / thickness.max(1e-9);
        placed.push(if is_column {
            Rect { x: rest.x, y: rest.y + at, width: thickness, height: length }
        } else {
            Rect { x: rest.x + at, y: rest.y, width: length, height: thickness }
        });
        at += length;
    }
    if is_column {
        rest.x += thickness;
        rest.width = (rest.width - thickness).max(0.0);
    } else {
        rest.y += thickness;
        rest.height = (rest.height - thickness).max(0.0);
    }
}

fn escape(text: &str) -> String {
    let replace = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(replace).collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.2} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_area_and_none_leaves_it() {
        let area = Rect { x: 10.0, y: 20.0, width: 300.0, height: 200.0 };
        for sizes in [&[6_u64, 6, 4, 3, 2, 2, 1][..], &[1_000_000, 1], &[5], &[], &[1; 500]] {
            let placed = squarify(sizes, area);
            assert_eq!(placed.len(), sizes.len());
            let sum: f64 = placed.iter().map(|rect| rect.width * rect.height).sum();
            assert!(sizes.is_empty() || (sum - 60_000.0).abs() < 1.0, "{sum}");
            let is_inside = |rect: &Rect| {
                rect.x >= 9.99
                    && rect.y >= 19.99
                    && rect.x + rect.width <= 310.01
                    && rect.y + rect.height <= 220.01
            };
            assert!(placed.iter().all(is_inside), "{sizes:?}");
        }
        // The example of the paper: its first two tiles are stacked at the left.
        let paper = squarify(&[6, 6, 4, 3, 2, 2, 1], Rect { x: 0.0, y: 0.0, width: 6.0, height: 4.0 });
        assert_eq!(paper[1], Rect { x: 0.0, y: 2.0, width: 3.0, height: 2.0 });
    }

    #[test]
    fn labels_are_shortened_and_escaped() {
        assert_eq!(fit("abcdef", 100.0).unwrap(), "abcdef");
        assert_eq!(fit("abcdefghijkl", 7.0 * LETTER).unwrap(), "abcdef…");
        assert_eq!(fit("abcdef", 10.0), None);
        assert_eq!(escape("<a&\"b\">"), "&lt;a&amp;&quot;b&quot;&gt;");
    }
}
