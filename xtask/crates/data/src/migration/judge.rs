//! The judgement of scripts: state that runs along the statements, what each breaks, and what excuses it.

use std::collections::{BTreeMap, BTreeSet};

use finding::{Finding, Place, Severity};
use serde::Serialize;

use super::breach::{Breach, Rebuild, Scene, breaches, rebuilds, replaced};
use super::catalogue::Catalogue;
use super::contract::{Running, Verdict};
use super::files::{Migration, is_called};
use super::marker::{self, Malformed, Marker};
use super::rules::{self, Class, Entry};
use crate::sql::{self, Change, Dialect, Statement};

/// Who sees to it that a statement does not wait for its lock for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockTimeout {
    /// Each script, by `SET lock_timeout`.
    ByScript,
    /// Whoever runs the scripts.
    ByRunner,
}

/// Which transactions scripts run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// Those that a script begins and ends by itself.
    AsWritten,
    /// One for each script.
    PerFile,
}

/// What scripts are judged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Whose SQL it is.
    pub dialect: Dialect,
    /// Who bounds waiting for locks.
    pub lock_timeout: LockTimeout,
    /// Which transactions scripts run in.
    pub transaction: Transaction,
    /// Which releases could use the schema.
    pub running: Running,
}

/// What became of scripts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Scripts that were judged.
    pub files: usize,
    /// Statements in them.
    pub statements: usize,
    /// What is wrong, in the order of the scripts.
    pub findings: Vec<Finding>,
    /// What would be wrong, and is excused.
    pub allowed: Vec<Allowed>,
}

/// A finding that is excused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// What it is.
    pub finding: Finding,
    /// Why it is fine.
    pub because: String,
}

impl Judgement {
    /// Findings that a migration is refused for.
    pub fn refused(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity >= Severity::High)
    }

    /// Takes another judgement in.
    pub fn extend(&mut self, other: Judgement) {
        self.files += other.files;
        self.statements += other.statements;
        self.findings.extend(other.findings);
        self.allowed.extend(other.allowed);
    }
}

/// Judges scripts one deployment after the other.
#[derive(Debug)]
pub struct Judge {
    setting: Setting,
    catalogue: Catalogue,
    /// Names of migrations that came before.
    known: BTreeSet<String>,
}

/// One script while it is judged.
struct Script<'a> {
    migration: &'a Migration,
    judgement: Judgement,
    scene: Scene,
}

impl Judge {
    /// A judge who has seen nothing yet.
    pub fn new(setting: Setting) -> Judge {
        Judge { setting, catalogue: Catalogue::default(), known: BTreeSet::new() }
    }

    /// Takes in what is there already, without judging it.
    pub fn learn(&mut self, migration: &Migration) {
        let statements = sql::split(&migration.text, self.setting.dialect).unwrap_or_default();
        for change in statements.iter().flat_map(|statement| sql::changes(statement, self.setting.dialect)) {
            self.catalogue.apply(&change);
        }
        self.catalogue.settle();
        self.known.insert(migration.name.clone());
    }

    /// Judges the scripts of one deployment; afterwards releases know what they made.
    pub fn judge(&mut self, migrations: &[Migration]) -> Judgement {
        let mut judgement = Judgement::default();
        for migration in migrations {
            judgement.extend(self.script(migration));
        }
        self.known.extend(migrations.iter().map(|migration| migration.name.clone()));
        self.catalogue.settle();
        judgement
    }

    fn script(&mut self, migration: &Migration) -> Judgement {
        let mut judgement = Judgement { files: 1, ..Judgement::default() };
        let statements = match sql::split(&migration.text, self.setting.dialect) {
            Ok(statements) => statements,
            Err(unreadable) => {
                let breach = Breach::new("unreadable", "", unreadable.to_string());
                judgement.findings.extend(finding(&breach, &migration.path, unreadable.line));
                return judgement;
            }
        };
        judgement.statements = statements.len();
        let changes: Vec<Vec<Change>> =
            statements.iter().map(|statement| sql::changes(statement, self.setting.dialect)).collect();
        let all: Vec<&Change> = changes.iter().flatten().collect();
        let scene = Scene {
            dialect: self.setting.dialect,
            is_in_transaction: self.setting.transaction == Transaction::PerFile,
            needs_lock_timeout: self.setting.lock_timeout == LockTimeout::ByScript,
            rebuilds: rebuilds(&all, &self.catalogue),
            replaced: replaced(&all),
            not_valid: BTreeSet::new(),
        };
        let mut script = Script { migration, judgement, scene };
        for (statement, changes) in statements.iter().zip(&changes) {
            self.statement(&mut script, statement, changes);
        }
        script.judgement
    }

    fn statement(&mut self, script: &mut Script<'_>, statement: &Statement, changes: &[Change]) {
        let mut excuses = Excuses::of(statement);
        for Malformed { line, why } in std::mem::take(&mut excuses.malformed) {
            let breach = Breach::new("marker", &why, why.clone());
            script.judgement.findings.extend(finding(&breach, &script.migration.path, line));
        }
        self.check_contracts(script, &excuses);
        let summary = statement.summary();
        let mut seen = BTreeSet::new();
        for change in changes {
            for mut breach in breaches(change, &mut script.scene, &self.catalogue) {
                // A table with two actions needs one lock.
                if !seen.insert((breach.rule, breach.key.clone())) {
                    continue;
                }
                if breach.key.is_empty() {
                    breach.key = summary.clone();
                }
                breach.message = format!("`{summary}` {}", breach.message);
                self.settle(script, statement, breach, &mut excuses);
            }
            self.catalogue.apply(change);
        }
        for (line, name) in excuses.unused() {
            let breach = Breach::new("unused-marker", name, format!("nothing here breaks `{name}`"));
            script.judgement.findings.extend(finding(&breach, &script.migration.path, line));
        }
    }

    /// A contract that refers to a migration that never was is a slip of the pen.
    fn check_contracts(&self, script: &mut Script<'_>, excuses: &Excuses) {
        for (line, after) in &excuses.contracts {
            if !self.known.iter().any(|name| is_called(name, after)) {
                let breach =
                    Breach::new("marker", after, format!("no earlier migration is called `{after}`"));
                script.judgement.findings.extend(finding(&breach, &script.migration.path, *line));
            }
        }
    }

    /// Reports a breach, or says why it is fine.
    fn settle(
        &self,
        script: &mut Script<'_>,
        statement: &Statement,
        mut breach: Breach,
        excuses: &mut Excuses,
    ) {
        let Some(entry) = rules::entry(breach.rule) else { return };
        let because = excuses.allow(entry.name).or_else(|| self.excuse(entry, excuses, &mut breach));
        let Some(finding) = finding(&breach, &script.migration.path, statement.line()) else { return };
        match because {
            Some(because) => script.judgement.allowed.push(Allowed { finding, because }),
            None => script.judgement.findings.push(finding),
        }
    }

    fn excuse(&self, entry: &Entry, excuses: &Excuses, breach: &mut Breach) -> Option<String> {
        let mut after = excuses.contracts.iter().map(|(_, after)| after.as_str());
        let after = after.rfind(|after| self.known.iter().any(|name| is_called(name, after)));
        match entry.class {
            Class::Always => None,
            Class::Lock => self.setting.running.is_nobody().then(|| "no release serves".to_owned()),
            Class::Contract => match self.setting.running.may_contract(after) {
                Verdict::Fine(because) => Some(because),
                Verdict::Needed(who) => {
                    breach.message = format!("{}: {who}", breach.message);
                    None
                }
            },
        }
    }
}

/// The finding of a breach.
fn finding(breach: &Breach, path: &str, line: u32) -> Option<Finding> {
    let entry = rules::entry(breach.rule)?;
    Some(Finding {
        severity: entry.severity,
        rule: entry.rule(),
        place: Place::file_line(path, line, 1),
        message: breach.message.clone(),
        key: breach.key.clone(),
    })
}

/// The markers of one statement, and which of them were of use.
#[derive(Default)]
struct Excuses {
    allowed: BTreeMap<&'static str, (u32, String, bool)>,
    contracts: Vec<(u32, String)>,
    malformed: Vec<Malformed>,
}

impl Excuses {
    fn of(statement: &Statement) -> Excuses {
        let mut excuses = Excuses::default();
        for marker in statement.comments.iter().filter_map(marker::parse) {
            match marker {
                Err(malformed) => excuses.malformed.push(malformed),
                Ok(Marker::ContractAfter { line, migration }) => excuses.contracts.push((line, migration)),
                Ok(Marker::Allow { line, rules, because }) => {
                    excuses
                        .allowed
                        .extend(rules.into_iter().map(|rule| (rule, (line, because.clone(), false))));
                }
            }
        }
        excuses
    }

    fn allow(&mut self, rule: &str) -> Option<String> {
        let (_, because, is_used) = self.allowed.get_mut(rule)?;
        *is_used = true;
        Some(because.clone())
    }

    fn unused(&self) -> impl Iterator<Item = (u32, &'static str)> {
        self.allowed.iter().filter(|(_, (.., is_used))| !is_used).map(|(rule, (line, ..))| (*line, *rule))
    }
}

/// Kept beside the scene, so that its parts have one place.
pub(super) type Rebuilds = BTreeMap<String, Rebuild>;

#[cfg(test)]
mod tests;
