//! Flags of the commands for databases: backups, restores, migrations.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Environment;

/// Back up the databases of an environment; a backup counts once it was restored and compared.
///
/// Services go on writing meanwhile. Each dump is restored into a database that is thrown away, and rows and checksums of each table are
/// compared with those of the moment of the dump.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask backup production                all databases of the environment
  cargo xtask backup production list           what there is, and what is damaged
  cargo xtask backup production verify         restore the latest of each once more, and compare
  cargo xtask backup production prune --dry-run
                                               what the retention would let go; never the last one")]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// What to do.
    #[arg(value_enum, default_value_t = BackupAction::Create)]
    pub(crate) action: BackupAction,
    /// This database alone.
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// With `verify`: this backup [default: the latest]
    #[arg(long, value_name = "BACKUP")]
    pub(crate) id: Option<String>,
    /// Say what would be done and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackupAction {
    /// Take a backup, prove it, keep it.
    Create,
    /// Show what there is.
    List,
    /// Prove a backup once more.
    Verify,
    /// Remove what the retention lets go.
    Prune,
}

/// Put a backup in the place of what is in a database; the state before becomes a backup first.
///
/// All of it comes back, or nothing changes. A SQLite file is replaced only when no process has it open.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask restore production latest --dry-run    what would change
  cargo xtask restore production 20261121T034000Z    that backup
  cargo xtask restore production latest --database app")]
pub(crate) struct Restore {
    /// Name of the environment.
    pub(crate) environment: String,
    /// Name of the backup, or `latest`.
    pub(crate) id: String,
    /// Folder of the environment's state [default: .slipway/<environment> in the workspace]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// Which database, where the environment has several.
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Look at everything, say what would change, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Let the present state go without a backup of it.
    #[arg(long)]
    pub(crate) no_backup: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Migrations of databases: what would break a release that runs, or make it wait.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask migrations check services/store/migrations     every migration of a folder
  cargo xtask migrations check migrations --since 0041_last  those after one that runs already
  cargo xtask migrations check migrations/0042_new.sql       one file, after those before it
  cargo xtask migrations rules                               what is looked for, why, and the cures")]
pub(crate) struct Migrations {
    #[command(subcommand)]
    pub(crate) command: MigrationsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrationsCommand {
    /// Judge migrations; exit code 13 where a statement is refused.
    Check(MigrationsCheck),
    /// Show the rules.
    Rules {
        /// Print one JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MigrationsCheck {
    /// Folders of migrations, and files.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Whose SQL it is [default: sqlite where the path says so, or postgres]
    #[arg(long, value_enum)]
    pub(crate) dialect: Option<SqlDialect>,
    /// Judge only what comes after this migration.
    #[arg(long, value_name = "MIGRATION")]
    pub(crate) since: Option<String>,
    /// Whoever runs the migrations runs each in a transaction.
    #[arg(long)]
    pub(crate) in_transaction: bool,
    /// Whoever runs the migrations sets lock_timeout.
    #[arg(long)]
    pub(crate) lock_timeout_by_runner: bool,
    /// Manifest of a release that runs or is kept for a rollback; may be given several times. Without any, every release needs everything.
    #[arg(long, value_name = "FILE", requires = "database")]
    pub(crate) running: Vec<PathBuf>,
    /// The name under which these releases list the migrations of the database.
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SqlDialect {
    Postgres,
    Sqlite,
}

impl From<SqlDialect> for data::Dialect {
    fn from(dialect: SqlDialect) -> data::Dialect {
        match dialect {
            SqlDialect::Postgres => data::Dialect::Postgres,
            SqlDialect::Sqlite => data::Dialect::Sqlite,
        }
    }
}
