//! Rules for workflows and actions. Where zizmor has an audit of the same purpose, the name is the same.

use finding::Severity::{High, Low, Medium, Note};

use super::Definition;

pub(super) const RULES: &[Definition] = &[
    Definition::new(
        "workflow/not-readable",
        High,
        "file cannot be audited",
        "A file that cannot be read as YAML was not audited: anything may be in it.",
        "Mend the file so that it parses; keep it below 1 MiB and 64 levels.",
    ),
    Definition::new(
        "workflow/unpinned-uses",
        High,
        "action is not pinned to a commit",
        "A tag or branch can be moved to other code at any time; this is how most attacks through actions worked.",
        "Write the full commit id, and the version in a comment behind it.",
    )
    .at("https://docs.github.com/en/actions/reference/security/secure-use"),
    Definition::new(
        "workflow/unpinned-images",
        Medium,
        "image is not pinned to a digest",
        "A tag can be moved to another image at any time.",
        "Add `@sha256:` and the digest.",
    ),
    Definition::new(
        "workflow/excessive-permissions",
        Medium,
        "token may do more than it must",
        "Every step of every job gets a token with these permissions, third-party code included.",
        "Write `permissions: {}` or `contents: read` at the top, and what a job needs at the job.",
    )
    .at("https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#permissions"),
    Definition::new(
        "workflow/undocumented-permissions",
        Note,
        "permission without a reason",
        "Nobody can tell whether a permission is still needed when nothing says what for.",
        "Add a comment on its line that says what needs it.",
    ),
    Definition::new(
        "workflow/template-injection",
        High,
        "expression inside code",
        "An expression is pasted into the script before it runs: whoever controls its value runs commands.",
        "Give the value to the step as a variable (`env:`) and use the variable in the script.",
    )
    .at("https://docs.github.com/en/actions/concepts/security/script-injections"),
    Definition::new(
        "workflow/dangerous-triggers",
        High,
        "trigger that gives strangers the repository's rights",
        "`pull_request_target`, `workflow_run` and `issue_comment` run with the repository's secrets on what a stranger sent.",
        "Use `pull_request`, or never check out or run anything of the pull request.",
    )
    .at("https://securitylab.github.com/resources/github-actions-preventing-pwn-requests/"),
    Definition::new(
        "workflow/artipacked",
        Medium,
        "checkout leaves its token behind",
        "The token stays on the disk for all later steps, and in every artifact that takes the folder up.",
        "Set `persist-credentials: false` at the checkout; give the token to the one step that needs it.",
    ),
    Definition::new(
        "workflow/cache-poisoning",
        Medium,
        "release job restores a cache",
        "A cache can be filled by another run of lower rights; what is released may then be built from it.",
        "Restore no caches in jobs that publish.",
    ),
    Definition::new(
        "workflow/secrets-inherit",
        Medium,
        "all secrets are passed on",
        "The called workflow gets every secret, those it does not need too.",
        "Name the secrets that it needs below `secrets:`.",
    ),
    Definition::new(
        "workflow/overprovisioned-secrets",
        Medium,
        "all secrets in one value",
        "The step gets every secret of the repository, and none of them is masked in logs.",
        "Name the one secret that is needed.",
    ),
    Definition::new(
        "workflow/hardcoded-container-credentials",
        High,
        "registry password in the file",
        "Whoever reads the repository has the password.",
        "Write `${{ secrets.NAME }}` and replace the password.",
    ),
    Definition::new(
        "workflow/self-hosted-runner",
        Medium,
        "own runner",
        "In a public repository a stranger's pull request can run code on the machine, and leave some behind.",
        "Use a hosted runner, or one that lives for one job only.",
    ),
    Definition::new(
        "workflow/github-env",
        High,
        "environment or path of later steps is written in a job that strangers trigger",
        "Whoever controls a line that is written there sets variables such as LD_PRELOAD for all later steps.",
        "Use a step output (GITHUB_OUTPUT) instead.",
    ),
    Definition::new(
        "workflow/insecure-commands",
        High,
        "insecure workflow commands are switched on",
        "Every line that a program prints may then set variables and paths of later steps.",
        "Remove ACTIONS_ALLOW_UNSECURE_COMMANDS and write to GITHUB_ENV.",
    ),
    Definition::new(
        "workflow/concurrency-limits",
        Low,
        "no concurrency limit",
        "Old runs go on while newer ones start; deployments can overtake each other.",
        "Add `concurrency:` with a group and `cancel-in-progress`.",
    ),
    Definition::new(
        "workflow/unsound-condition",
        High,
        "condition that is always true",
        "With text around the expression, or a line break behind it, the condition is a non-empty text, and that counts as true.",
        "Write the condition without `${{ }}`, or with `|-` in place of `|`.",
    ),
    Definition::new(
        "workflow/anonymous-definition",
        Note,
        "no name",
        "Lists of runs show the file's path instead of what it is for.",
        "Add `name:`.",
    ),
    Definition::new(
        "workflow/timeout-missing",
        Low,
        "job without a time limit",
        "A job that hangs runs for six hours, and holds its concurrency group.",
        "Add `timeout-minutes:` to the job.",
    ),
    Definition::new(
        "workflow/known-vulnerable-actions",
        High,
        "version of an action with a published vulnerability",
        "The action's authors published an advisory for this version.",
        "Update to the version that the message names.",
    )
    .at("https://github.com/advisories"),
];
