//! What is counted, as text in the exposition format of Prometheus. Labels come from the table alone, so no client can make
//! more of them.

use std::fmt::Write;

use crate::control::{BakeReport, BakeState};
use crate::counters::{Counters, Tally};
use crate::histogram::Picture;
use crate::live::Live;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// One metric with its lines.
struct Family {
    text: String,
    name: &'static str,
}

/// One slot.
struct Row {
    labels: String,
    tally: Tally,
    in_flight: u64,
    streams: u64,
}

/// All figures of now.
pub(crate) fn render(live: &Live, bake: Option<&BakeReport>, log_lines_dropped: u64) -> String {
    let row = |(name, service, counters): (String, String, std::sync::Arc<Counters>)| Row {
        labels: format!("service=\"{}\",slot=\"{}\"", escaped(&service), escaped(&name)),
        tally: counters.tally(),
        in_flight: counters.in_flight(),
        streams: counters.streams(),
    };
    let rows: Vec<Row> = live.slots().into_iter().map(row).collect();
    let mut all = vec![answers(&rows)];
    all.extend(counts(&rows));
    all.push(times(
        "slipway_edge_first_byte_seconds",
        "From a request's last byte to the head of its answer.",
        &rows,
        |tally| &tally.first_byte,
    ));
    all.push(times(
        "slipway_edge_request_seconds",
        "From a request's head to the end of its answer.",
        &rows,
        |tally| &tally.total,
    ));
    all.push(held(live));
    let single = [
        (
            "slipway_edge_table_generation",
            "Generation of the routing table in force.",
            live.in_force().table.generation,
        ),
        (
            "slipway_edge_baking",
            "1 while a bake lasts.",
            u64::from(is(bake, |state| matches!(state, BakeState::Baking { .. }))),
        ),
        (
            "slipway_edge_reverted",
            "1 when the last bake ended with the former routes.",
            u64::from(is(bake, |state| matches!(state, BakeState::Reverted { .. }))),
        ),
    ];
    for (name, help, value) in single {
        let mut family = Family::new(name, "gauge", help);
        family.line("", value);
        all.push(family.text);
    }
    let mut dropped =
        Family::new("slipway_edge_access_log_lines_dropped_total", "counter", "Lines that were not written.");
    dropped.line("", log_lines_dropped);
    all.push(dropped.text);
    all.concat()
}

fn is(bake: Option<&BakeReport>, state: impl Fn(BakeState) -> bool) -> bool {
    bake.is_some_and(|bake| state(bake.state))
}

fn answers(rows: &[Row]) -> String {
    let mut family =
        Family::new("slipway_edge_answers_total", "counter", "Answers of services by class of their status.");
    for row in rows {
        for (class, count) in CLASSES.iter().zip(row.tally.statuses) {
            family.line(&format!("{{{},status=\"{class}\"}}", row.labels), count);
        }
    }
    family.text
}

/// Metrics of one number a slot.
fn counts(rows: &[Row]) -> Vec<String> {
    type Pick = fn(&Row) -> u64;
    let families: [(&str, &str, &str, Pick); 6] = [
        (
            "slipway_edge_requests_unanswered_total",
            "counter",
            "Requests that a service took and gave no answer to.",
            |row| row.tally.unanswered,
        ),
        (
            "slipway_edge_answers_cut_total",
            "counter",
            "Answers that a service did not bring to their end.",
            |row| row.tally.cut,
        ),
        (
            "slipway_edge_connect_errors_total",
            "counter",
            "Requests that could not be sent, answered 502.",
            |row| row.tally.connect_errors,
        ),
        (
            "slipway_edge_rescued_total",
            "counter",
            "Requests that could not be sent and went to the slot before.",
            |row| row.tally.rescued,
        ),
        ("slipway_edge_in_flight", "gauge", "Requests whose answer is not complete yet.", |row| {
            row.in_flight
        }),
        ("slipway_edge_streams", "gauge", "Upgraded connections that are open.", |row| row.streams),
    ];
    let render = |(name, kind, help, pick): (&'static str, &str, &str, Pick)| {
        let mut family = Family::new(name, kind, help);
        rows.iter().for_each(|row| family.line(&format!("{{{}}}", row.labels), pick(row)));
        family.text
    };
    families.into_iter().map(render).collect()
}

fn times(name: &'static str, help: &str, rows: &[Row], pick: fn(&Tally) -> &Picture) -> String {
    let mut family = Family::new(name, "histogram", help);
    for row in rows {
        let (picture, labels) = (pick(&row.tally), &row.labels);
        for (bound_us, count) in picture.cumulative() {
            let bound = bound_us as f64 / 1e6;
            family.line(&format!("_bucket{{{labels},le=\"{bound}\"}}"), count);
        }
        family.line(&format!("_bucket{{{labels},le=\"+Inf\"}}"), picture.count());
        family.line(&format!("_sum{{{labels}}}"), picture.sum_us() as f64 / 1e6);
        family.line(&format!("_count{{{labels}}}"), picture.count());
    }
    family.text
}

fn held(live: &Live) -> String {
    let mut family = Family::new("slipway_edge_held", "gauge", "Requests of paused services that wait.");
    for (service, count) in live.paused() {
        family.line(&format!("{{service=\"{}\"}}", escaped(&service)), count);
    }
    family.text
}

impl Family {
    fn new(name: &'static str, kind: &str, help: &str) -> Family {
        Family { text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"), name }
    }

    fn line(&mut self, suffix: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{}{suffix} {value}", self.name);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
