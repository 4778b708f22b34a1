//! Whether a service is made of what it may be made of. Pure: it compares what was found with what is written.

use std::collections::BTreeMap;

use serde::Serialize;
use workspace::Budget;

use crate::bytes::Weight;
use crate::record::Recorded;
use crate::report::{Class, Package, Service};

/// One thing that is not as the budget wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The service.
    pub service: String,
    /// The budget's key.
    pub rule: &'static str,
    /// The package, where it is about one.
    pub package: Option<String>,
    /// What was found.
    pub message: String,
    /// What to do.
    pub cure: String,
}

/// What is known of a service's size: now, and as it was recorded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes<'a> {
    /// Now; `None` where it was not built.
    pub now: Option<&'a Weight>,
    /// As it was written down.
    pub recorded: Option<&'a Recorded>,
}

/// Compares the service with its budget.
pub fn check(service: &Service, budget: &Budget, sizes: Sizes<'_>) -> Vec<Violation> {
    let mut check = Check { service, found: vec![] };
    check.packages(budget);
    check.counts(budget);
    check.sizes(budget, sizes);
    check.found
}

struct Check<'a> {
    service: &'a Service,
    found: Vec<Violation>,
}

impl Check<'_> {
    fn report(&mut self, rule: &'static str, package: Option<&Package>, message: String, cure: String) {
        self.found.push(Violation {
            service: self.service.name.clone(),
            rule,
            package: package.map(Package::spec),
            message,
            cure,
        });
    }

    fn packages(&mut self, budget: &Budget) {
        let service = self.service;
        for used in service.used.values() {
            let package = &used.package;
            let named =
                |list: &std::collections::BTreeSet<String>| list.iter().any(|one| package.is_named(one));
            let spec = package.spec();
            if used.class == Class::Linked && named(&budget.forbid) {
                let message = format!("{spec} is in the binary, and deps.forbid names it");
                self.report("forbid", Some(package), message, self.who_asks(&spec));
            }
            let is_shipped = used.class == Class::Linked || used.class == Class::BuildOnly;
            if is_shipped && named(&budget.dev_only) {
                let message = format!("{spec} is {}, and only tests may use it", used.class.name());
                let cure = format!("move it to [dev-dependencies]; {}", self.who_asks(&spec));
                self.report("dev_only", Some(package), message, cure);
            }
        }
    }

    fn who_asks(&self, spec: &str) -> String {
        let chains = self.service.why(spec);
        let names = chains.first().map(|chain| {
            chain.iter().map(|used| used.package.name.as_str()).collect::<Vec<_>>().join(" -> ")
        });
        match names {
            Some(names) => format!("asked for by {names}; see `cargo xtask deps --why {spec}`"),
            None => format!("see `cargo xtask deps --why {spec}`"),
        }
    }

    fn counts(&mut self, budget: &Budget) {
        let linked = self.service.of_class(Class::Linked);
        if let Some(most) = budget.max_packages.filter(|most| linked.len() > *most) {
            let message = format!("{} packages are in the binary, and {most} may be", linked.len());
            let cure = "switch features off that nobody needs, or raise deps.max_packages".to_owned();
            self.report("max_packages", None, message, cure);
        }
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for package in linked {
            versions.entry(&package.name).or_default().push(&package.version);
        }
        versions.retain(|name, found| found.len() > 1 && !budget.allow_duplicates.contains(*name));
        if let Some(most) = budget.max_duplicates.filter(|most| versions.len() > *most) {
            let list: Vec<String> =
                versions.iter().map(|(name, found)| format!("{name} {}", found.join(" and "))).collect();
            let message = format!(
                "{} packages are in several versions, and {most} may be: {}",
                versions.len(),
                list.join(", ")
            );
            let cure = "update who asks for the older one (`cargo xtask deps --why name@version`), or name it in \
                        deps.allow_duplicates";
            self.report("max_duplicates", None, message, cure.to_owned());
        }
    }

    fn sizes(&mut self, budget: &Budget, sizes: Sizes<'_>) {
        let has_limit = budget.max_bytes.is_some()
            || budget.max_growth_bytes.is_some()
            || budget.max_growth_percent.is_some();
        let Some(now) = sizes.now else {
            if has_limit {
                let message = "the binary has a limit and was not built".to_owned();
                self.report("max_bytes", None, message, "cargo xtask build".to_owned());
            }
            return;
        };
        if let Some(most) = budget.max_bytes.filter(|most| now.file > *most) {
            let message = format!("the binary has {} bytes, and {most} are allowed", now.file);
            let cure = "`cargo xtask deps` shows whose they are; or raise deps.max_bytes".to_owned();
            self.report("max_bytes", None, message, cure);
        }
        let growth_limit = |recorded: &Recorded| {
            let percent = budget.max_growth_percent;
            let percent = percent.map(|percent| recorded.file.saturating_mul(u64::from(percent)) / 100);
            [percent, budget.max_growth_bytes].into_iter().flatten().min()
        };
        match sizes.recorded {
            Some(recorded) => {
                let growth = now.file.saturating_sub(recorded.file);
                if let Some(most) = growth_limit(recorded).filter(|most| growth > *most) {
                    let message = format!(
                        "the binary grew by {growth} bytes to {}, and {most} are allowed; {}",
                        now.file,
                        self.who_grew(now, recorded)
                    );
                    let cure = "make it smaller, or accept it: cargo xtask deps --record".to_owned();
                    self.report("max_growth", None, message, cure);
                }
            }
            None if budget.max_growth_bytes.or(budget.max_growth_percent.map(u64::from)).is_some() => {
                let message = "its growth has a limit and no size is recorded".to_owned();
                self.report("max_growth", None, message, "cargo xtask deps --record".to_owned());
            }
            None => {}
        }
    }

    /// The three parts that grew most.
    fn who_grew(&self, now: &Weight, recorded: &Recorded) -> String {
        let now = Recorded::new(self.service, now);
        let grew = |(name, bytes): (&String, &u64)| {
            let before = recorded.parts.get(name).copied().unwrap_or(0);
            (bytes > &before).then(|| (bytes - before, name.clone()))
        };
        let mut grown: Vec<(u64, String)> = now.parts.iter().filter_map(grew).collect();
        grown.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let named = grown.iter().take(3).map(|(bytes, name)| format!("{name} by {bytes}"));
        named.collect::<Vec<_>>().join(", ")
    }
}
