//! The pipelines themselves: which jobs there are, what each may do and what it runs. It knows settings and nothing of a
//! workspace's services; how a job looks in YAML or runs here is not its business.

use crate::commands::{self, Shards};
use crate::expr::{Condition, Value};
use crate::model::{
    Action, Artifact, Body, Cache, Concurrency, Input, Job, Permission, Run, Setup, Step, Steps, Trigger,
    Workflow, Yielding,
};
use crate::settings::Settings;

const READ: Permission = Permission { scope: "contents", level: "read", reason: "to fetch the sources" };

/// The artifact that holds the tool.
pub(crate) const TOOL_ARTIFACT: &str = "tool";

/// All workflows of a workspace.
pub fn workflows(settings: &Settings) -> Vec<Workflow> {
    let mut workflows = vec![ci(settings), build(settings), deploy(settings)];
    if settings.reusable {
        workflows.push(pipeline(settings));
    }
    workflows
}

/// What a change must pass.
pub fn ci(settings: &Settings) -> Workflow {
    let mut triggers = vec![
        Trigger::PullRequest,
        Trigger::MergeGroup,
        Trigger::Push { branches: vec![settings.default_branch.clone()], tags: Vec::new() },
    ];
    if !settings.schedule.is_empty() {
        triggers.push(Trigger::Schedule(settings.schedule.clone()));
    }
    triggers.push(Trigger::Dispatch(Vec::new()));
    Workflow {
        file: "ci",
        name: "ci",
        about: "What a change must pass. Only the job `gate` needs to be required by the branch: it demands all others.",
        triggers,
        concurrency: Some(Concurrency {
            group: "ci-${{ github.event.pull_request.number || github.run_id }}".to_owned(),
            yielding: Yielding::OldPullRequest,
        }),
        jobs: checks(settings, &Shards::Fixed(settings.shards), Setup::Fresh),
    }
}

/// The same for other repositories.
fn pipeline(settings: &Settings) -> Workflow {
    let input = |name, description: &str, default: Option<String>| Input {
        name,
        description: description.to_owned(),
        default,
        options: Vec::new(),
    };
    let repository = settings.tool.as_ref().map(|tool| tool.repository.clone());
    Workflow {
        file: "pipeline",
        name: "pipeline",
        about: "The jobs of ci.yml for other repositories: call it by its commit, with the version of the tool that it installs.",
        triggers: vec![Trigger::Call(vec![
            input("version", "Tag or commit of the tool.", None),
            input("repository", "URL of the git repository of the tool.", repository),
            input("shards", "Into how many jobs the tests are split.", Some(settings.shards.to_string())),
        ])],
        concurrency: None,
        jobs: checks(settings, &Shards::Input, Setup::Version),
    }
}

/// The jobs that judge a change: those that need no plan begin at once and make the tool themselves, from the cache; shards and
/// gate come after the plan and get the tool from it.
fn checks(settings: &Settings, shards: &Shards, fresh: Setup) -> Vec<Job> {
    let mut jobs = vec![
        plan(settings, shards, fresh),
        lint(settings, fresh),
        test(settings),
        job(
            settings,
            "scan",
            "Advisories, secrets, licences, configuration. It has no secrets and can write nothing.",
            vec![
                checkout(true),
                setup(fresh, Some(Cache::Dependencies)),
                run("Scan", commands::scan()),
                upload("scan", commands::SARIF, settings).when(Condition::Always),
            ],
        ),
        job(
            settings,
            "build",
            "Images of all services, with an SBOM each.",
            vec![
                checkout(false),
                setup(fresh, Some(Cache::Store)),
                run("Build images", commands::build()),
                upload("images", commands::IMAGES, settings),
                upload("sbom", commands::SBOM, settings),
                step("Keep what images were built from", Action::Save(Cache::Store)).when(Condition::Trusted),
            ],
        ),
        report(settings),
    ];
    jobs.push(gate(settings, &jobs));
    jobs
}

fn plan(settings: &Settings, shards: &Shards, fresh: Setup) -> Job {
    let steps = vec![
        checkout(true),
        setup(fresh, Some(Cache::Dependencies)),
        run("Split the tests", commands::test_plan(shards, settings.exact_test_plan)),
        run("Say what must happen", commands::ci_plan()),
        step(
            "Pass the tool on",
            Action::Upload {
                name: Value::Text(TOOL_ARTIFACT.to_owned()),
                path: commands::TOOL.to_owned(),
                retention_days: 1,
            },
        ),
        run("Leave out what changes with every commit", commands::ci_prune()).when(Condition::Trusted),
        step("Keep compiled dependencies", Action::Save(Cache::Dependencies)).when(Condition::Trusted),
    ];
    let mut job = job(settings, "plan", "Which tests run where, and what the gate will demand.", steps);
    job.steps_mut().outputs = vec!["base", "matrix", "report", "test", "tests"];
    job
}

/// A repository that calls the pipeline need not have generated files of its own.
fn lint(settings: &Settings, fresh: Setup) -> Job {
    let check = (fresh == Setup::Fresh).then(|| run("Compare generated files", commands::ci_check()));
    let mut steps = vec![checkout(false), setup(fresh, Some(Cache::Dependencies))];
    steps.extend(check);
    steps.push(run("Check formatting and lints", commands::ci_lint()));
    job(settings, "lint", "Formatting, lints, and whether generated files are fresh.", steps)
}

fn test(settings: &Settings) -> Job {
    let name = Value::Joined(vec![Value::Text("test-report-".to_owned()), Value::JobIndex]);
    let keep =
        Action::Upload { name, path: commands::REPORTS.to_owned(), retention_days: settings.retention_days };
    let mut job = job(
        settings,
        "test",
        "One share of the tests.",
        vec![
            checkout(false),
            setup(Setup::Passed, Some(Cache::Dependencies)),
            run("Run tests", commands::test_shard()),
            step("Keep the report", keep).when(Condition::Always),
        ],
    );
    job.needs = vec!["plan".to_owned()];
    job.when = Some(Condition::Planned("test"));
    job.steps_mut().matrix = Some(("plan", "matrix"));
    job
}

/// Showing findings needs a permission; so it is a job that runs nothing of the sources, and none of forks.
fn report(settings: &Settings) -> Job {
    let mut job = job(
        settings,
        "report",
        "Shows findings on GitHub; runs nothing of the sources.",
        vec![
            download("scan", commands::FOLDER),
            step("Show findings", Action::UploadSarif { path: commands::SARIF.to_owned() }),
        ],
    );
    job.needs = vec!["plan".to_owned(), "scan".to_owned()];
    job.when = Some(Condition::PlannedAnyway("report"));
    job.permissions = vec![
        Permission { scope: "actions", level: "read", reason: "to name the run, in private repositories" },
        Permission {
            scope: "contents",
            level: "read",
            reason: "to name the commit, in private repositories",
        },
        Permission { scope: "security-events", level: "write", reason: "to show findings in code scanning" },
    ];
    job
}

fn gate(settings: &Settings, jobs: &[Job]) -> Job {
    let reports = Action::Download {
        name: Artifact::BeginningWith("test-report-"),
        path: commands::REPORTS.to_owned(),
    };
    let mut job = job(
        settings,
        "gate",
        "Green only if every job ended as planned and every test ran once.",
        vec![
            checkout(false),
            setup(Setup::Passed, Some(Cache::Timings)),
            step("Fetch the reports", reports).when(Condition::PlannedAnyway("test")),
            run("Prove that every test ran once", commands::test_merge())
                .when(Condition::PlannedAnyway("test")),
            run("Compare with the plan", commands::ci_gate()).when(Condition::Always),
            step("Keep what tests took", Action::Save(Cache::Timings)).when(Condition::Trusted),
        ],
    );
    job.needs = jobs.iter().map(|job| job.id.clone()).collect();
    job.when = Some(Condition::Always);
    job
}

/// What the default branch and releases are made of. No caches: what is signed comes from the sources alone.
fn build(settings: &Settings) -> Workflow {
    let mut images = job(
        settings,
        "images",
        "Images and SBOMs from the sources alone: no caches, no identity.",
        vec![
            checkout(false),
            setup(Setup::Fresh, None),
            run("Build images", commands::build_from_sources()),
            run("Name what is to be signed", commands::ci_subjects()),
            run("Write the release manifest", commands::release_create()),
            upload("images", commands::IMAGES, settings),
            upload("sbom", commands::SBOM, settings),
            upload("release", commands::MANIFEST, settings),
        ],
    );
    images.steps_mut().outputs = vec!["matrix"];
    Workflow {
        file: "build",
        name: "build",
        about: "Images of the default branch and of releases: built, signed, released, deployed.",
        triggers: vec![Trigger::Push {
            branches: vec![settings.default_branch.clone()],
            tags: vec![settings.release_tags.clone()],
        }],
        concurrency: Some(Concurrency {
            group: "build-${{ github.ref }}".to_owned(),
            yielding: Yielding::New,
        }),
        jobs: [
            Some(images),
            settings.sign.then(|| attest(settings)),
            Some(release(settings)),
            Some(call_deploy()),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

/// The identity that signs is out of reach of everything that the sources can run.
fn attest(settings: &Settings) -> Job {
    let (name, digest) = (Value::Matrix("name"), Value::Matrix("digest"));
    let sbom = Value::Joined(vec![Value::Text(format!("{}/", commands::SBOM)), Value::Matrix("sbom")]);
    let sign = |sbom| Action::Attest { name: name.clone(), digest: digest.clone(), sbom };
    let mut job = job(
        settings,
        "attest",
        "Signs who built what; runs nothing of the sources.",
        vec![
            download("sbom", commands::SBOM),
            step("Sign the provenance", sign(None)),
            step("Sign the SBOM", sign(Some(sbom))),
        ],
    );
    job.needs = vec!["images".to_owned()];
    job.steps_mut().matrix = Some(("images", "matrix"));
    job.permissions = vec![
        Permission { scope: "attestations", level: "write", reason: "to store the signed statements" },
        Permission { scope: "id-token", level: "write", reason: "to sign as this workflow, without a key" },
    ];
    job
}

fn release(settings: &Settings) -> Job {
    let mut job = job(
        settings,
        "release",
        "A release of a tag, with what was built and signed.",
        vec![
            checkout(false),
            setup(Setup::Fresh, None),
            download("sbom", commands::SBOM),
            download("release", commands::FOLDER),
            run("Publish the release", commands::release_publish()),
        ],
    );
    job.needs = vec!["images".to_owned()];
    job.needs.extend(settings.sign.then(|| "attest".to_owned()));
    job.when = Some(Condition::Tag);
    job.permissions = vec![Permission { scope: "contents", level: "write", reason: "to create the release" }];
    job
}

/// A release made with a run's own token starts no workflow; so deployments are called, not awaited.
fn call_deploy() -> Job {
    Job {
        id: "deploy".to_owned(),
        about: "The release, through all environments.",
        needs: vec!["release".to_owned()],
        when: Some(Condition::Tag),
        permissions: vec![Permission {
            scope: "contents",
            level: "read",
            reason: "to fetch sources and release",
        }],
        body: Body::Call {
            workflow: "deploy",
            with: vec![
                ("environment", Value::Text(crate::expr::ALL.to_owned())),
                ("release", Value::RefName),
            ],
        },
    }
}

fn deploy(settings: &Settings) -> Workflow {
    let mut options = settings.environment_names();
    options.push(crate::expr::ALL.to_owned());
    let inputs = vec![
        Input {
            name: "environment",
            description: "Where to; `all` is one after the other.".to_owned(),
            default: None,
            options,
        },
        Input {
            name: "release",
            description: "Tag of the release.".to_owned(),
            default: None,
            options: Vec::new(),
        },
    ];
    Workflow {
        file: "deploy",
        name: "deploy",
        about: "A release into one environment or all. Who must agree is set in the environment's settings on GitHub.",
        triggers: vec![Trigger::Dispatch(inputs.clone()), Trigger::Call(inputs)],
        concurrency: None,
        jobs: (0..settings.environments.len()).map(|index| deploy_to(settings, index)).collect(),
    }
}

fn deploy_to(settings: &Settings, index: usize) -> Job {
    let environment = &settings.environments[index];
    let mut deploy = commands::deploy(&environment.name);
    for secret in &environment.secrets {
        deploy = deploy.env(secret, Value::Secret(secret.clone()));
    }
    let about = if environment.approval {
        "One environment. It waits for approval: set required reviewers in the environment's settings on GitHub."
    } else {
        "One environment."
    };
    let mut job = job(
        settings,
        &environment.name,
        about,
        vec![
            checkout_of(Value::Input("release")),
            setup(Setup::Fresh, None),
            run("Fetch the release", commands::release_fetch()),
            // The same sources give the same bits: the release names them by digest, and any other is refused.
            run("Build its images again", commands::build_from_sources()),
            run("Scan it", commands::release_scan()),
            run("Deploy", deploy),
        ],
    );
    job.needs =
        index.checked_sub(1).map(|before| settings.environments[before].name.clone()).into_iter().collect();
    job.when = Some(Condition::Deploy { index });
    let steps = job.steps_mut();
    steps.environment = Some(environment.name.clone());
    steps.runner = environment.runner.clone().unwrap_or_else(|| settings.runner.clone());
    steps.concurrency =
        Some(Concurrency { group: format!("deploy-{}", environment.name), yielding: Yielding::New });
    job
}

fn job(settings: &Settings, id: &str, about: &'static str, steps: Vec<Step>) -> Job {
    Job {
        id: id.to_owned(),
        about,
        needs: Vec::new(),
        when: None,
        permissions: vec![READ],
        body: Body::Steps(Steps {
            runner: settings.runner.clone(),
            timeout_minutes: settings.timeout_minutes,
            matrix: None,
            environment: None,
            concurrency: None,
            outputs: Vec::new(),
            steps,
        }),
    }
}

fn step(name: &str, action: Action) -> Step {
    Step { name: name.to_owned(), when: None, action }
}

fn run(name: &str, run: Run) -> Step {
    step(name, Action::Run(run))
}

fn checkout(has_history: bool) -> Step {
    step("Fetch the sources", Action::Checkout { has_history, of: None })
}

fn checkout_of(tag: Value) -> Step {
    step("Fetch the sources of the release", Action::Checkout { has_history: false, of: Some(tag) })
}

fn setup(setup: Setup, cache: Option<Cache>) -> Step {
    step("Set up", Action::Setup(setup, cache))
}

fn upload(name: &str, path: &str, settings: &Settings) -> Step {
    let action = Action::Upload {
        name: Value::Text(name.to_owned()),
        path: path.to_owned(),
        retention_days: settings.retention_days,
    };
    step(&format!("Keep {name}"), action)
}

fn download(name: &'static str, path: &str) -> Step {
    let action = Action::Download { name: Artifact::Named(name), path: path.to_owned() };
    step(&format!("Fetch {name}"), action)
}

impl Step {
    fn when(mut self, condition: Condition) -> Step {
        self.when = Some(condition);
        self
    }
}

impl Job {
    fn steps_mut(&mut self) -> &mut Steps {
        match &mut self.body {
            Body::Steps(steps) => steps,
            Body::Call { .. } => unreachable!("jobs that are made by `job` have steps"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(workflow: &Workflow, check: &mut dyn FnMut(&Job, &Action)) {
        for job in &workflow.jobs {
            if let Body::Steps(steps) = &job.body {
                steps.steps.iter().for_each(|step| check(job, &step.action));
            }
        }
    }

    #[test]
    fn only_the_pipeline_of_a_change_uses_caches() {
        for workflow in workflows(&Settings::default()) {
            let mut caches = 0;
            actions(&workflow, &mut |_, action| {
                if let Action::Run(run) = action {
                    let builds = run.line().starts_with("cargo xtask build ");
                    let from_sources = run.line().contains(" --cache off");
                    caches += u32::from(builds && !from_sources);
                }
                caches += u32::from(matches!(action, Action::Save(_) | Action::Setup(_, Some(_))));
            });
            let is_of_a_change = ["ci", "pipeline"].contains(&workflow.file);
            assert_eq!(caches > 0, is_of_a_change, "{}", workflow.file);
        }
    }

    #[test]
    fn a_job_with_an_identity_or_a_right_to_show_findings_runs_no_command() {
        for workflow in workflows(&Settings::default()) {
            actions(&workflow, &mut |job, action| {
                let signs = |p: &Permission| p.level == "write" && p.scope != "contents";
                let runs = matches!(action, Action::Run(_) | Action::Setup(..) | Action::Checkout { .. });
                assert!(!(runs && job.permissions.iter().any(signs)), "{}/{}", workflow.file, job.id);
            });
        }
    }

    #[test]
    fn a_repository_that_calls_the_pipeline_needs_no_generated_files() {
        let settings = Settings::default();
        let checks = |workflow: &Workflow| {
            let mut lines = Vec::new();
            actions(workflow, &mut |_, action| {
                if let Action::Run(run) = action {
                    lines.push(run.line());
                }
            });
            lines.contains(&"cargo xtask ci check".to_owned())
        };
        assert!(checks(&ci(&settings)));
        assert!(!checks(&pipeline(&settings)));
    }

    #[test]
    fn a_job_comes_after_those_that_it_needs() {
        for workflow in workflows(&Settings::default()) {
            for (index, job) in workflow.jobs.iter().enumerate() {
                for name in &job.needs {
                    assert!(workflow.jobs[..index].iter().any(|job| job.id == *name), "{} {name}", job.id);
                }
            }
        }
    }
}
